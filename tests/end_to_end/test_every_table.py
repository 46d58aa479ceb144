"""Every shipped table that no module beside this one runs, with a few steps of every training."""

from pathlib import Path

import pytest

from rlm.table import load_table
from tests.end_to_end.workplace import ROOT, Command

BESIDE = {"realm_table2", "retro_neighbours", "retro_leakage", "retro_open_qa", "knn_lm", "knn_mt"}
"""Run by modules of their own."""
TABLES = {path.stem for path in (ROOT / "experiments").glob("*.yaml")}


def test_tables__run_beside_are_shipped() -> None:
    assert BESIDE < TABLES


@pytest.mark.parametrize("name", sorted(TABLES - BESIDE))
def test_run__prints_every_row(rlm: Command, workplace: Path, name: str) -> None:
    path = f"experiments/{name}.yaml"
    printed = rlm("run", path, "--scale", "micro", "--store", "every").stdout
    rows = load_table(workplace / path, "micro").rows
    shown = [line.split("|")[1].split(" (baseline)")[0].strip() for line in printed.splitlines() if line.count("|") > 3]
    assert [row for row in rows if row not in shown] == []
    assert "not finished" not in printed
