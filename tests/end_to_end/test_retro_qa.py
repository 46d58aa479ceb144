"""RETRO's table of answers through the command line, with a few steps of every training."""

import json
import subprocess
from pathlib import Path

import pytest

from rlm.data.content import content_digest
from rlm.table import load_table
from tests.end_to_end.workplace import Command

TABLE, STORE, ROWS = "experiments/retro_open_qa.yaml", "retro_qa", "RETRO,Off"


@pytest.fixture(scope="module")
def printed(rlm: Command) -> subprocess.CompletedProcess:
    """Two rows, run once."""
    return rlm("run", TABLE, "--scale", "micro", "--store", STORE, "--rows", ROWS)


def test_run__prints_rows_columns_and_trends(printed: subprocess.CompletedProcess) -> None:
    assert "exact match" in printed.stdout and "answer in a passage read" in printed.stdout
    assert "RETRO > Off" in printed.stdout
    assert "the dev split, at most its first 12 questions" in printed.stdout


def test_rows__answer_the_same_questions(printed: subprocess.CompletedProcess, workplace: Path) -> None:
    table = load_table(workplace / TABLE, "micro", rows=ROWS.split(","))
    answers = {}
    for cell in table.cells(lambda source: content_digest(source, None)):
        folder = workplace / STORE / "stages" / cell.stages["answer"].folder
        answers[cell.row] = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    asked = {row: [(line["id"], line["question"]) for line in lines] for row, lines in answers.items()}
    assert len(asked["RETRO"]) == 12 and asked["RETRO"] == asked["Off"]
    assert all(len(line["passages"]) == 2 for line in answers["RETRO"]), "as many as are read"
