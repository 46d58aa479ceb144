"""Whatever a view does, the account of the stages comes."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm import report
from rlm.commands import run
from rlm.commands.plan import Plan
from rlm.launch import Event, Outcome
from rlm.live import PlainView
from rlm.stages.stage import VERSIONS, Stage
from rlm.table import Cell


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setitem(VERSIONS, "some_stage", 1)
    return Stage(name="some_stage", config={})


class _Tracking:
    def __init__(self, *_: Any) -> None: ...

    def deliver_finished(self) -> None: ...

    def close(self, seconds: float) -> None: ...


@pytest.fixture
def command(tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], int]:
    """The command with stages that failed, each with its message."""

    class _Table:
        datasets, seeds = ("small",), (0,)

    cell = Cell(row="LM", dataset="small", seed=0, stages={"some": stage}, leaves=("some",))
    plan = Plan(
        table=_Table(),  # type: ignore[arg-type]
        cells=[cell],
        stages={stage.key: stage},
        used_by={stage.key: [cell]},
        finished={},
        damaged={},
    )
    monkeypatch.setattr(run, "make_plan", lambda options, hashes: plan)
    monkeypatch.setattr(run, "_Tracking", _Tracking)
    monkeypatch.setattr(report, "render", lambda *_: "the table")
    monkeypatch.setattr(report, "write_reports", lambda *_: tmp_path / "page.html")

    def call(failed: dict[str, str]) -> int:
        monkeypatch.setattr(run, "_compute", lambda *_: Outcome(failed=failed))
        return run.main(argparse.Namespace(dry_run=False, store=tmp_path / "runs"))

    return call


def _raise(error: Exception) -> Callable[..., Any]:
    def function(*_: Any) -> Any:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device", "runs/tables/t/tiny.md"), "runs/tables/t/tiny.md"),
        (run.StageError("a: cannot be written\nb: cannot be written"), "rlm run: report: b: cannot be written"),
        (KeyError("x"), "KeyError('x')"),
    ],
)
def test_run__when_the_report_cannot_be_written_failures_are_told(
    command: Callable[[dict[str, str]], int],
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    told: str,
) -> None:
    monkeypatch.setattr(report, "write_reports", _raise(error))
    assert command({stage.key: "test.jsonl:5: not JSON"}) == 1
    out, err = capsys.readouterr()
    assert "the table" in out
    assert told in err
    assert "1 stages failed" in err
    assert "test.jsonl:5: not JSON" in err
    assert command({}) == 1, "what was asked for is not all there"


def test_run__when_the_table_cannot_be_made_the_page_and_failures_are_told(
    command: Callable[[dict[str, str]], int],
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(report, "render", _raise(run.StageError("rows contradict each other")))
    assert command({stage.key: "no memory"}) == 1
    out, err = capsys.readouterr()
    assert "rlm run: table: rows contradict each other" in err
    assert "page.html" in out
    assert "no memory" in err


def test_run__when_all_is_well(command: Callable[[dict[str, str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command({}) == 0
    assert capsys.readouterr().err == ""


def test_view__when_it_fails_it_is_told_once_and_the_work_goes_on(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    view = PlainView({stage.key: stage}, {stage.key: "LM"}, set())
    view._print = _raise(OSError(28, "No space left on device"))  # type: ignore[method-assign]
    with run._Unstoppable(view) as watch:
        for kind in ("started", "done"):
            watch(Event(kind, stage.key), {})  # type: ignore[arg-type]
    err = capsys.readouterr().err
    assert err == "how the run goes cannot be shown any longer: No space left on device\n"
