"""REALM's Table 2 through the command line, with a few steps of every training."""

import csv
import io
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from rlm.data.content import content_digest
from rlm.table import Cell, distinct_stages, load_table
from tests.end_to_end.workplace import TABLE, Command, environment


def cells(workplace: Path) -> list[Cell]:
    return load_table(workplace / TABLE, "micro").cells(lambda source: content_digest(source, None))


def folders(store: Path) -> dict[str, int]:
    """Finished stages and when they were written."""
    return {path.name: (path / "stage.json").stat().st_mtime_ns for path in (store / "stages").iterdir()}


def summary(workplace: Path, cell: Cell, role: str) -> dict[str, float]:
    return json.loads((workplace / "runs/stages" / cell.stages[role].folder / "stage.json").read_text())["metrics"]


def predictions(store: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in store.glob("stages/evaluate-*/predictions.jsonl")}


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_run__computes_each_distinct_stage_once(finished: subprocess.CompletedProcess, workplace: Path) -> None:
    table = cells(workplace)
    distinct = {stage.folder for stage, _ in distinct_stages(table).values()}
    assert set(folders(workplace / "runs")) == distinct
    # Table 2 without sharing would take this many.
    assert len(distinct) < sum(len(cell.needed()) for cell in table) / 2
    names = sorted(name.rpartition("-")[0] for name in distinct)
    assert {name: names.count(name) for name in names} == {
        **{"corpus": 2, "salient_spans": 1, "questions": 1, "warm_start": 1, "ict": 1},
        **{"pretrain": 4, "index": 5, "zero_shot": 5, "finetune": 7, "evaluate": 7},
    }


def test_run__repeats_nothing_when_all_is_finished(
    finished: subprocess.CompletedProcess, workplace: Path, rlm: Command
) -> None:
    rlm("run", TABLE, "--scale", "micro", "--store", "runs")  # MLflow may still wait for what the first run left
    before, start = folders(workplace / "runs"), children_seconds()
    again = rlm("run", TABLE, "--scale", "micro", "--store", "runs")
    assert children_seconds() - start < 5  # of processor time: the tests beside this one do not count
    assert folders(workplace / "runs") == before
    for row in ("Baseline (ORQA)", "30x stale MIPS"):
        assert row in again.stdout


def test_run__prints_every_row_with_the_papers_numbers(finished: subprocess.CompletedProcess) -> None:
    table = load_table(Path(__file__).parents[2] / TABLE, "tiny")
    for row in table.rows:
        assert row in finished.stdout
    assert "paper (nq_open)" in finished.stdout and "38.2" in finished.stdout


def test_rows__have_identical_zero_shot_recall_when_they_share_a_retriever(
    finished: subprocess.CompletedProcess, workplace: Path
) -> None:
    rows = {cell.row: cell for cell in cells(workplace)}
    pairs = [("REALM", "REALM retriever + baseline encoder"), ("Baseline (ORQA)", "Baseline retriever + REALM encoder")]
    for first, second in pairs:
        assert summary(workplace, rows[first], "zero_shot") == summary(workplace, rows[second], "zero_shot")
        assert rows[first].stages["evaluate"].key != rows[second].stages["evaluate"].key


@pytest.mark.parametrize("form", ["markdown", "latex", "csv", "html"])
def test_table__holds_all_rows_in_each_format(
    finished: subprocess.CompletedProcess, workplace: Path, rlm: Command, form: str
) -> None:
    printed = rlm("table", TABLE, "--scale", "micro", "--store", "runs", "--format", form).stdout
    names = ["REALM with random uniform masks", "30x stale MIPS", "Baseline (ORQA)"]
    assert [name for name in names if name not in printed] == []
    if form == "csv":
        assert len(list(csv.reader(io.StringIO(printed)))) >= 8


def test_mlflow__has_a_run_for_every_stage_by_row_and_seed(
    finished: subprocess.CompletedProcess, workplace: Path
) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{workplace}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("realm_table2")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert {f"{r.data.tags['stage']}-{r.data.tags['key']}" for r in runs} == set(folders(workplace / "runs"))
    assert {run.info.status for run in runs} == {"FINISHED"}
    query = "tags.row = '30x stale MIPS' and tags.seed = '0' and tags.stage = 'evaluate'"
    (run,) = client.search_runs([experiment.experiment_id], query)
    row = next(cell for cell in cells(workplace) if cell.row == "30x stale MIPS")
    assert run.data.metrics["exact_match"] == summary(workplace, row, "evaluate")["exact_match"]
    assert "predictions.jsonl" in {a.path for a in client.list_artifacts(run.info.run_id)}


def test_ask__shows_passages_and_answers_of_a_question_however_long(
    finished: subprocess.CompletedProcess, workplace: Path, rlm: Command
) -> None:
    row = next(cell for cell in cells(workplace) if cell.row == "REALM")
    questions = workplace / "runs/stages" / row.stages["questions"].folder / "dev.jsonl"
    question = json.loads(questions.read_text().splitlines()[0])["question"]
    printed = rlm("ask", row.stages["finetune"].folder, question + " please" * 60, "--store", "runs").stdout
    assert [word for word in ("p(z|x)", "p(y|z,x)", "p(y|x)", "Without retrieval") if word not in printed] == []


def test_ask__compares_no_passage_a_given_one_and_the_marginal(
    finished: subprocess.CompletedProcess, workplace: Path, rlm: Command
) -> None:
    row = next(cell for cell in cells(workplace) if cell.row == "REALM")
    given = ("--passage", "Paul Laipebert was born in Vegeklawick Heath. " * 40, "--answer", "Vegeklawick Heath")
    sentence = "Paul Laipebert first saw daylight at [MASK]."
    printed = rlm("ask", row.stages["pretrain"].folder, sentence, *given, "--store", "runs", "--top", "8").stdout
    for line in ("without retrieval (null passage)", "with the passage given", "marginal over the top 8 passages"):
        assert line in printed


@pytest.mark.slow
def test_run__gives_the_same_predictions_when_workers_differ(
    finished: subprocess.CompletedProcess, workplace: Path, rlm: Command
) -> None:
    options = ("--scale", "micro", "--store", "two_workers", "--rows", "REALM", "--workers", "2")
    rlm("run", TABLE, *options)
    others, expected = predictions(workplace / "two_workers"), predictions(workplace / "runs")
    assert len(others) == 1
    assert others.items() <= expected.items()


@pytest.mark.slow
def test_run__finishes_with_the_same_predictions_when_it_was_interrupted(
    finished: subprocess.CompletedProcess, workplace: Path, rlm: Command
) -> None:
    options = ("run", TABLE, "--scale", "micro", "--store", "interrupted", "--rows", "REALM", "--threads", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "rlm", *options],
        cwd=workplace,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stages = workplace / "interrupted" / "stages"
    end = time.monotonic() + 300
    while not list(stages.glob("pretrain-*/")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "rlm run" in errors and "interrupted" in errors
    kept = {name: when for name, when in folders_finished(stages).items()}
    rlm(*options)
    assert kept.items() <= folders_finished(stages).items(), "a finished stage was repeated"
    assert predictions(workplace / "interrupted").items() <= predictions(workplace / "runs").items()


def folders_finished(stages: Path) -> dict[str, int]:
    return {p.name: (p / "stage.json").stat().st_mtime_ns for p in stages.iterdir() if not p.name.endswith(".tmp")}
