"""RETRO's table of neighbours through the command line, with a few steps of every training."""

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from rlm.data.content import content_digest
from rlm.table import Cell, distinct_stages, load_table
from tests.end_to_end.workplace import Command

TABLE = "experiments/retro_neighbours.yaml"
LEAKAGE = "experiments/retro_leakage.yaml"
STORE = "retro"


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
    assert "bits per byte" in printed.stdout and "perplexity" in printed.stdout
    assert "2 neighbours < Off" in printed.stdout


def test_run__computes_each_distinct_stage_once(workplace: Path, cells: dict[str, Cell]) -> None:
    distinct = {stage.folder for stage, _ in distinct_stages(cells.values()).values()}
    assert {path.name for path in (workplace / STORE / "stages").iterdir()} == distinct


def test_rows__are_measured_on_the_same_documents(workplace: Path, cells: dict[str, Cell]) -> None:
    measured = {}
    for row, cell in cells.items():
        folder = workplace / STORE / "stages" / cell.stages["perplexity"].folder
        lines = [json.loads(line) for line in (folder / "documents.jsonl").read_text().splitlines()]
        measured[row] = [(line["id"], line["tokens"], line["bytes"]) for line in lines]
    assert len(measured["Off"]) > 5
    assert all(documents == measured["Off"] for documents in measured.values())


def test_table__holds_all_rows(printed: subprocess.CompletedProcess, cells: dict[str, Cell], rlm: Command) -> None:
    shown = rlm("table", TABLE, "--scale", "micro", "--store", STORE, "--format", "csv").stdout
    lines = list(csv.DictReader(io.StringIO(shown)))
    assert {line["row"] for line in lines} == set(cells)


def test_generate__goes_on_from_a_prompt_and_lists_the_neighbours(
    printed: subprocess.CompletedProcess, cells: dict[str, Cell], rlm: Command
) -> None:
    run, prompt = cells["4 neighbours"].stages["perplexity"].folder, "The mayor of the town was born in 1901, "
    out = rlm("generate", run, prompt, "--tokens", "40", "--store", STORE).stdout
    text, _, listed = out.rpartition("\n\n")
    assert text.startswith(prompt) and len(text) > len(prompt)
    chunks = listed.split("chunk ")[1:]
    assert len(chunks) > 2 and all(len(chunk.splitlines()) == 1 + 4 for chunk in chunks)


def test_leakage__is_measured_of_every_row_on_the_same_chunks(
    printed: subprocess.CompletedProcess, workplace: Path, rlm: Command
) -> None:
    shutil.copytree(workplace / STORE, workplace / "leakage")
    before = {path.name for path in (workplace / "leakage" / "stages").iterdir()}
    shown = rlm("run", LEAKAGE, "--scale", "micro", "--store", "leakage").stdout
    assert "bits per byte at ≤ 12.5 % overlap" in shown and "RETRO < Off" in shown
    table = load_table(workplace / LEAKAGE, "micro")
    cells = table.cells(lambda source: content_digest(source, None))
    new = {path.name for path in (workplace / "leakage" / "stages").iterdir()} - before
    assert new == {cell.stages["leakage"].folder for cell in cells} and len(new) == 3, "the rest is shared"
    kept = []
    for cell in cells:
        measured, whole = (
            workplace / "leakage" / "stages" / cell.stages[role].folder for role in ("leakage", "perplexity")
        )
        metrics, unfiltered = (
            json.loads((folder / "stage.json").read_text())["metrics"] for folder in (measured, whole)
        )
        assert metrics["bits_per_byte@100"] == pytest.approx(unfiltered["bits_per_byte"], rel=1e-9)
        assert 0 < metrics["bytes_kept@12.5"] < metrics["bytes_kept@50"] < metrics["bytes_kept@100"] == 100
        kept.append([json.loads(line)["bytes"] for line in (measured / "leakage.jsonl").read_text().splitlines()])
    assert kept[0] == kept[1] == kept[2]
    page = (workplace / "leakage" / "tables" / "retro_leakage" / "micro.html").read_text()
    assert "<h3>Bits per byte by overlap</h3>" in page
