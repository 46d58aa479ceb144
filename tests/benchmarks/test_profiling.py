"""Where a stage's time went, by what it logged."""

import time

import pytest

from benchmarks.gpu.profiling import Sampler, faulty, profile, read_events, table

RECORD = {"name": "pretrain", "core_seconds": 80.0, "seconds": 40.0}


def paces(*moments: tuple[int, float]) -> list[dict]:
    return [{"step": step, "time": when, "metrics": {"steps_per_second": 1.0}} for step, when in moments]


def churn(when: float) -> dict:
    return {"step": 0, "time": when, "metrics": {"churn": 0.5}}


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> Sampler:
    monkeypatch.setattr("shutil.which", lambda name: None)
    return Sampler()


def test_profile__tells_steps_from_refreshes(sampler: Sampler) -> None:
    # 5 s to start, a step a second, and 7 s for an index between steps 20 and 30
    events = sorted([*paces((10, 115.0), (20, 125.0), (30, 142.0), (40, 152.0)), churn(130.0)], key=lambda e: e["time"])
    shown = profile(RECORD, events, "REALM", 100.0, 155.0, sampler)
    assert {name: shown[name] for name in ("s", "start", "steps", "refresh", "end", "steps/s", "cores")} == {
        "s": 55.0, "start": 5.0, "steps": 40.0, "refresh": 7.0, "end": 3.0, "steps/s": 1.0, "cores": 2.0,
    }  # fmt: skip


def test_profile__looks_at_this_attempt_alone(sampler: Sampler) -> None:
    before = paces((10, 10.0), (20, 30.0))
    shown = profile(RECORD, [*before, *paces((30, 102.0), (40, 112.0))], "REALM", 100.0, 112.0, sampler)
    assert (shown["start"], shown["steps"], shown["refresh"]) == (0.0, 12.0, 0.0)


def test_profile__of_a_stage_that_does_not_train_has_its_seconds_alone(sampler: Sampler) -> None:
    shown = profile({**RECORD, "name": "corpus"}, [], "REALM", 100.0, 130.0, sampler)
    assert shown["s"] == 30.0 and "steps" not in shown
    assert table([shown])[2] == "| corpus | REALM | 30.0 | – | – | – | – | – | 2.0 | – |  |"


def test_stage__is_marked_where_it_leaves_the_gpu_idle_for_more_than_a_fifth(sampler: Sampler) -> None:
    sampler.samples = [(float(second), 0.0 if second < 103 else 1.0) for second in range(90, 112)]
    idle, busy = (profile(RECORD, [], "REALM", *when, sampler) for when in ((101.0, 110.0), (103.0, 110.0)))
    assert idle["GPU idle"] == pytest.approx(0.2) and busy["GPU idle"] == 0.0
    idle["GPU idle"] = 0.21
    assert faulty(idle) and not faulty(busy) and not faulty({"stage": "corpus"})
    assert table([idle])[2].endswith("| 21% | FAULT: idle |") and table([busy])[2].endswith("| 0% |  |")


def test_sampler__reads_what_nvidia_smi_says(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text('#!/bin/sh\ncase "$*" in *name*) echo Some GPU;; *) echo 50; echo 100; sleep 60;; esac\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    sampler, end = Sampler(), time.monotonic() + 10
    while len(sampler.samples) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    sampler.close()
    assert sampler.name == "Some GPU" and sampler.idle(0, time.time()) == 0.25
    assert sampler.idle(0, 1) is None


def test_read_events__leaves_out_a_line_that_was_cut_off(tmp_path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"step": 1, "time": 1.0, "metrics": {}}\n{"step": 2, "ti')
    assert [event["step"] for event in read_events(path)] == [1]
    assert read_events(tmp_path / "none") == []
