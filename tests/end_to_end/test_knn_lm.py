"""kNN-LM's table through the command line, with a few steps of training."""

import csv
import io
import json
import subprocess
from pathlib import Path

import pytest

from rlm.data.content import content_digest
from rlm.table import Cell, distinct_stages, load_table
from tests.end_to_end.workplace import Command

TABLE = "experiments/knn_lm.yaml"
STORE = "knn_lm"


@pytest.fixture(scope="module")
def printed(rlm: Command) -> subprocess.CompletedProcess:
    """All rows, run once."""
    return rlm("run", TABLE, "--scale", "micro", "--store", STORE)


@pytest.fixture
def cells(printed: subprocess.CompletedProcess, workplace: Path) -> dict[str, Cell]:
    table = load_table(workplace / TABLE, "micro")
    return {cell.row: cell for cell in table.cells(lambda source: content_digest(source, None))}


def documents(workplace: Path, cell: Cell) -> list[dict]:
    path = workplace / STORE / "stages" / cell.stages["knn_evaluate"].folder / "documents.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_run__prints_every_row_and_trend(printed: subprocess.CompletedProcess, cells: dict[str, Cell]) -> None:
    assert [row for row in cells if row not in printed.stdout] == []
    assert all(word in printed.stdout for word in ("perplexity", "bits per byte", "tokens helped", "lambda"))
    assert "LM + kNN < LM" in printed.stdout


def test_run__computes_each_distinct_stage_once(workplace: Path, cells: dict[str, Cell]) -> None:
    distinct = {stage.folder for stage, _ in distinct_stages(cells.values()).values()}
    assert {path.name for path in (workplace / STORE / "stages").iterdir()} == distinct


def test_rows__are_measured_on_the_same_documents(workplace: Path, cells: dict[str, Cell]) -> None:
    measured = {
        row: [(line["id"], line["tokens"], line["bytes"]) for line in documents(workplace, cell)]
        for row, cell in cells.items()
    }
    assert len(measured["LM"]) > 5
    assert all(lines == measured["LM"] for lines in measured.values())


def test_neighbours__help(workplace: Path, cells: dict[str, Cell]) -> None:
    nats = {row: sum(line["nats"] for line in documents(workplace, cell)) for row, cell in cells.items()}
    assert nats["LM + kNN"] < nats["LM"] and nats["LM + kNN + cache"] < nats["LM"]


def test_table__holds_all_rows_and_what_was_chosen(cells: dict[str, Cell], rlm: Command) -> None:
    shown = rlm("table", TABLE, "--scale", "micro", "--store", STORE, "--format", "csv").stdout
    lines = list(csv.DictReader(io.StringIO(shown)))
    assert {line["row"] for line in lines} == set(cells)
    page = rlm("table", TABLE, "--scale", "micro", "--store", STORE, "--format", "html").stdout
    assert "Perplexity of the development text over lambda and k" in page
    assert "Tokens with their nearest neighbours" in page
