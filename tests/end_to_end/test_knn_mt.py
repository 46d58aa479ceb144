"""kNN-MT's table through the command line, with a few steps of training."""

import csv
import io
import json
import subprocess
from pathlib import Path

import pytest

from rlm.data.content import content_digest
from rlm.table import Cell, distinct_stages, load_table
from tests.end_to_end.workplace import Command

TABLE = "experiments/knn_mt.yaml"
STORE = "knn_mt"


@pytest.fixture(scope="module")
def printed(rlm: Command) -> subprocess.CompletedProcess:
    """All rows, run once."""
    return rlm("run", TABLE, "--scale", "micro", "--store", STORE)


@pytest.fixture
def cells(printed: subprocess.CompletedProcess, workplace: Path) -> dict[str, Cell]:
    table = load_table(workplace / TABLE, "micro")
    return {cell.row: cell for cell in table.cells(lambda source: content_digest(source, None))}


def test_run__prints_every_row_and_trend(printed: subprocess.CompletedProcess, cells: dict[str, Cell]) -> None:
    assert [row for row in cells if row not in printed.stdout] == []
    for shown in ("BLEU elsewhere", "tokens/s", "chrF", "+ kNN > T = 1", "nrefs:1|case:mixed|eff:no|tok:13a"):
        assert shown in printed.stdout.replace("\\|", "|"), shown


def test_run__computes_each_distinct_stage_once(workplace: Path, cells: dict[str, Cell]) -> None:
    distinct = {stage.folder for stage, _ in distinct_stages(cells.values()).values()}
    assert {path.name for path in (workplace / STORE / "stages").iterdir()} == distinct


def test_rows__translate_the_same_sentences(workplace: Path, cells: dict[str, Cell]) -> None:
    measured = {}
    for row, cell in cells.items():
        folder = workplace / STORE / "stages" / cell.stages["translate"].folder
        lines = [json.loads(line) for line in (folder / "translations.jsonl").read_text().splitlines()]
        measured[row] = [(line["id"], line["source"], line["reference"]) for line in lines]
    assert len(measured["Base MT"]) == 8
    assert all(sentences == measured["Base MT"] for sentences in measured.values())


def test_table__holds_all_rows(printed: subprocess.CompletedProcess, cells: dict[str, Cell], rlm: Command) -> None:
    shown = rlm("table", TABLE, "--scale", "micro", "--store", STORE, "--format", "csv").stdout
    assert {line["row"] for line in csv.DictReader(io.StringIO(shown))} == set(cells)
