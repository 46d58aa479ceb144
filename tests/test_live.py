import io
from typing import Any

import pytest

from rlm.launch import Event
from rlm.live import LiveView, PlainView, figures
from rlm.stages.stage import VERSIONS, Stage

METRICS = {"aardvark": 1.0, "perplexity": 12.0, "bits_per_byte": 0.98765, "n": 300.0, "gate": 0.5}
ORDER = ["gate", "bits_per_byte", "perplexity"]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setitem(VERSIONS, "some_stage", 1)
    return Stage(name="some_stage", config={})


def _events(key: str) -> list[Event]:
    progress: dict[str, Any] = {"done": 1, "total": 2, "shown": {"gate": 0.5, "steps_per_second": 3.0, "aardvark": 1.0}}
    return [Event("started", key), Event("progress", key, progress), Event("done", key)]


def test_figures__are_pace_and_loss_then_the_model_s_own_then_any() -> None:
    assert figures(METRICS, ORDER) == "gate 0.5  bits_per_byte 0.988  perplexity 12  aardvark 1"
    assert figures({"loss": 2.0, "steps_per_second": 3.0, **METRICS}, ORDER).startswith("steps/s 3  loss 2  gate 0.5")
    assert figures({"b": 1.0, "a": 2.0}) == "a 2  b 1"


def test_plain_view__shows_the_figures_of_any_model(stage: Stage) -> None:
    out = io.StringIO()
    with PlainView({stage.key: stage}, {stage.key: "row"}, set(), ORDER, out, every=0.0) as view:
        for event in _events(stage.key):
            view(event, METRICS if event.kind == "done" else {})
    started, progress, done = out.getvalue().splitlines()
    assert "started" in started and "1/2  steps/s 3  gate 0.5  aardvark 1" in progress
    assert "gate 0.5  bits_per_byte 0.988" in done


@pytest.mark.parametrize("read", [True, False])
def test_live_view__keeps_the_figures_of_stages_that_the_table_reads(
    stage: Stage, capsys: pytest.CaptureFixture[str], read: bool
) -> None:
    rows = {"row": {"measure": [stage.key]}}
    with LiveView({stage.key: stage}, {stage.key: "row"}, set(), rows, {stage.key} if read else (), ORDER) as view:
        for event in _events(stage.key):
            view(event, METRICS if event.kind == "done" else {})
    assert ("bits_per_byte 0.988" in capsys.readouterr().out) == read
