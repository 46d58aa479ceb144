"""Work on another machine, one row: killed in the middle of a stage, done by the next, finished here.

`nox -s rehearsal` does more: rows, machines, and a comparison with an undisturbed run.
"""

import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu.session import TimedPool, TimeIsOver
from benchmarks.gpu.work import install
from rlm.config import Runtime
from tests.faults.killer import without_costs
from tests.rehearsal.machines import Machine, Workplace

ROW = "Baseline (ORQA)"


@pytest.mark.slow
def test_row__is_finished_here_by_a_second_machine_when_the_first_was_lost(tmp_path: Path) -> None:
    here = Workplace(tmp_path / "here", [ROW], measure=False)
    parts = here.pack()
    first = Machine(here, tmp_path / "first")
    first.carry(*parts)
    first.kill_when(lambda: any(first.work.glob("store/stages/warm_start-*.tmp")))
    lost = first.taken_away(tmp_path / "back-0")

    second = Machine(here, tmp_path / "second")
    second.carry(*parts, back=[lost])
    second.finish(5)
    back = second.taken_away(tmp_path / "back-1")
    assert "all jobs were looked at" in second.log()
    assert f"| finetune | table2: {ROW}, nq_open, seed 0 |" in (back / "report.md").read_text()

    here.run("benchmarks.gpu.merge", str(lost), str(back), "--store", "merged", "--jobs", str(here.jobs))
    kept = {path.name.partition("-")[0] for path in (here.folder / "merged" / "stages").iterdir()}
    assert kept == {"evaluate", "zero_shot"}
    (row,) = without_costs(here.run("rlm", "table", *here.options("merged"), "--format", "csv"))
    assert row["row"] == ROW and row["exact_match"] and row["zero_shot_recall@5"] and not row["missing"]


def test_pool__stops_when_nothing_is_left_of_the_time(tmp_path: Path) -> None:
    left = [0.05, 0.05, 0.0]
    pool = TimedPool(tmp_path, Runtime(device="cpu", jobs=1), lambda: left[0])
    assert pool.wait(60) == []  # no longer than what is left
    del left[:2]
    with pytest.raises(TimeIsOver):
        pool.wait(60)


def test_install__takes_a_wheel_where_its_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setenv("PYTHONPATH", "before")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("importlib.metadata.version", {"there": "1"}.__getitem__)
    monkeypatch.setattr("importlib.metadata.PackageNotFoundError", KeyError)
    (tmp_path / "wheels").mkdir()
    for name in ("there", "missing"):
        with zipfile.ZipFile(tmp_path / "wheels" / f"{name}-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", "")
    install(tmp_path)
    import os
    import sys

    assert [path.name for path in (tmp_path / "site").iterdir()] == ["missing.py"]
    assert sys.path[:2] == [str(tmp_path / "packages"), str(tmp_path / "site")]
    assert os.environ["PYTHONPATH"].startswith(str(tmp_path / "packages"))
    assert os.environ["PYTHONPATH"].endswith("before")
