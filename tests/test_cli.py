import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlm.cli import main, parser

FAKES = Path(__file__).parent / "fakes"
ROOT = Path(__file__).parents[1]
STAGES = 33
"""Distinct stages of the seven rows with one seed."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table whose stages are fakes."""
    shutil.copytree(FAKES / "experiments", tmp_path / "experiments")
    monkeypatch.setenv("PYTHONPATH", f"{FAKES}{os.pathsep}{ROOT}")
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log.txt"))
    for name in ("FAKE_SECONDS", "FAKE_FAIL", "FAKE_DIE", "FAKE_FULL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "rlm", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _rlm(folder: Path, *arguments: str) -> tuple[int, str, str]:
    process = _start(folder, *arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


RUN = ("run", "experiments/table.yaml", "--device", "cpu")


def _starts(folder: Path) -> list[str]:
    path = folder / "log.txt"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def _finished(folder: Path) -> set[str]:
    return {path.parent.name for path in (folder / "runs" / "stages").glob("*/stage.json") if path.parent.suffix == ""}


def test_run__when_seven_rows_share_stages_each_is_run_once(folder: Path) -> None:
    code, out, err = _rlm(folder, *RUN)
    assert (code, err) == (0, "")
    starts = _starts(folder)
    assert len(starts) == len(set(starts)) == STAGES
    assert set(starts) == _finished(folder)
    assert "the markdown table of Ablations" in out
    assert "MLflow: rlm ui --store runs" in out
    assert re.search(r"evaluate-\w+ \(REALM\): done \[\d+/33\] in \d+ s  exact_match 50", out)
    tracked = (folder / "runs" / "tracked.txt").read_text().splitlines()
    assert len([line for line in tracked if line.startswith("evaluate-")]) == 14, "at start and end of each"


def test_run__when_all_is_cached_it_is_quick_and_runs_nothing(folder: Path) -> None:
    _rlm(folder, *RUN)
    started = time.perf_counter()
    code, out, _ = _rlm(folder, *RUN)
    assert time.perf_counter() - started < 5
    assert code == 0
    assert len(_starts(folder)) == STAGES
    assert "the markdown table of Ablations" in out
    code, out, _ = _rlm(folder, "plan", "experiments/table.yaml")
    assert "everything is cached" in out


def test_run__when_a_stage_fails_the_rest_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL", "pretrain")
    code, _, err = _rlm(folder, *RUN)
    assert code == 1
    assert "4 stages failed, 20 wait for them" in err
    assert "pretrain met bad input in line 3" in err
    assert re.search(r"log: runs/stages/pretrain-\w+\.tmp/log\.txt", err)
    assert "stages are finished and kept; to go on: rlm run experiments/table.yaml" in err
    done = _finished(folder)
    assert len([name for name in done if name.startswith("evaluate")]) == 1, "the row without pre-training"
    monkeypatch.delenv("FAKE_FAIL")
    assert _rlm(folder, *RUN)[0] == 0
    assert len(_starts(folder)) == STAGES + 4


def test_run__when_a_file_is_damaged_only_its_stage_is_rebuilt(folder: Path) -> None:
    _rlm(folder, *RUN)
    victim = next((folder / "runs" / "stages").glob("ict-*/result.txt"))
    victim.write_text("")
    _, out, _ = _rlm(folder, "plan", "experiments/table.yaml")
    assert re.search(r"ict-\w+: result.txt is truncated \(0 bytes, \d+ were written\); it is computed again", out)
    code, _, err = _rlm(folder, *RUN)
    assert code == 0
    assert "result.txt is truncated" in err
    assert len(_starts(folder)) == STAGES + 1
    assert victim.read_text() != ""


def test_run__when_the_same_size_was_damaged(folder: Path) -> None:
    _rlm(folder, *RUN, "--rows", "REALM")
    before = len(_starts(folder))
    victim = next((folder / "runs" / "stages").glob("index-*/result.txt"))
    victim.write_text("x" * len(victim.read_text()))
    _, _, err = _rlm(folder, *RUN, "--rows", "REALM")
    assert "result.txt is damaged (its SHA-256 is not the recorded one)" in err
    assert len(_starts(folder)) == before + 1


def _wait_for(folder: Path, starts: int) -> None:
    deadline = time.monotonic() + 30
    while len(_starts(folder)) < starts and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(_starts(folder)) >= starts


@pytest.mark.parametrize("starts", [1, 4, 9])
def test_run__when_killed_and_started_again_it_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, starts: int
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0.2")
    process = _start(folder, *RUN)
    _wait_for(folder, starts)
    time.sleep(0.1)
    process.kill()
    process.communicate()
    finished = _finished(folder)
    monkeypatch.setenv("FAKE_SECONDS", "0")
    code, _, err = _rlm(folder, *RUN)
    assert (code, err) == (0, "")
    repeated = [name for name in _starts(folder) if name in finished]
    assert len(repeated) == len(finished), "finished stages are not repeated"
    assert len(_finished(folder)) == STAGES
    for steps in (folder / "runs" / "stages").glob("*/steps.txt"):
        assert sorted(map(int, steps.read_text().split())) == list(range(10)), "no step was done twice"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run__when_interrupted_it_says_how_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "5")
    process = _start(folder, *RUN, "--jobs", "1")
    _wait_for(folder, 1)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted; 0 of 33 stages are finished and kept; to go on: rlm run experiments/table.yaml" in err
    assert "Traceback" not in err


def test_run__when_all_is_cached_in_a_store_that_cannot_be_written(folder: Path) -> None:
    _rlm(folder, *RUN)
    shutil.rmtree(folder / "runs" / "locks")
    (folder / "runs" / "locks").write_text("")  # not even root can make its folders
    code, out, _ = _rlm(folder, *RUN)
    assert code == 0 and "the markdown table of Ablations" in out
    next((folder / "runs" / "stages").glob("ict-*/result.txt")).write_text("")
    code, _, err = _rlm(folder, *RUN)
    assert code == 2 and "--store runs: cannot be written" in err


def test_run__when_an_argument_holds_a_password_it_is_not_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SAYS", "away: http://ann:hunter2@127.0.0.1:9/api")
    code, out, err = _rlm(folder, *RUN, "--data", "s3://ann:hunter2@bucket")
    assert code == 1 and "away: http://127.0.0.1:9/api" in err
    assert "to go on: rlm run experiments/table.yaml --device cpu --data s3://bucket" in err
    assert "hunter2" not in out + err
    code, out, err = _rlm(folder, "run", "http://ann:hunter2@host/table.yaml")
    assert code == 2 and "hunter2" not in out + err and "Traceback" not in err


def test_run__when_a_damaged_stage_is_counted_as_finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _rlm(folder, *RUN)
    for victim in (folder / "runs" / "stages").glob("*/steps.txt"):
        victim.write_text("")
    monkeypatch.setenv("FAKE_FAIL", "corpus")
    code, _, err = _rlm(folder, *RUN)
    assert code == 1 and "1 of 33 stages are finished and kept" in err


def test_run__when_dry(folder: Path) -> None:
    code, out, _ = _rlm(folder, *RUN, "--dry-run")
    assert code == 0
    assert "33 stages to run" in out
    assert not (folder / "runs").exists()


def test_run__when_the_store_cannot_be_written(folder: Path) -> None:
    (folder / "file").write_text("")
    code, _, err = _rlm(folder, *RUN, "--store", "file/runs")
    assert (code, err) == (
        2,
        "rlm run: --store file/runs: cannot be written (Not a directory); choose a folder you may write\n",
    )


def test_plan__when_timed(folder: Path) -> None:
    started = time.perf_counter()
    code, out, err = _rlm(folder, "plan", "experiments/table.yaml", "--seeds", "0,1,2")
    assert time.perf_counter() - started < 2
    assert (code, err) == (0, "")
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert lines["REALM"].split()[1:] == ["to", "run"] * 10
    assert lines["Baseline (ORQA)"].split()[2:] == [
        *("shared", "shared", "shared", "shared", "-", "shared", "shared", "shared", "to", "run", "to", "run")
    ]
    assert re.search(r"^pretrain +12 +0 +12 .*formula$", out, re.MULTILINE)
    assert "93 stages to run" in out


def test_plan__when_it_cannot_fit(folder: Path) -> None:
    more = ("--set", "pretrain.training.batch_size=10000000")
    code, out, err = _rlm(folder, "plan", "experiments/table.yaml", *more)
    assert code == 2
    assert re.search(r"pretrain \(row REALM\): needs about [\d.]+ TB of memory \(formula\), this machine has", err)
    assert "stages to run" in out, "the plan is shown all the same"
    assert _rlm(folder, "plan", "experiments/table.yaml", "--force", *more)[0] == 0
    assert _rlm(folder, *RUN, *more)[0] == 2
    assert _starts(folder) == [], "nothing was started"


def test_plan__when_the_disk_is_too_small(folder: Path) -> None:
    huge = "corpus.source.entities=100000000000"
    _, _, err = _rlm(folder, "plan", "experiments/table.yaml", "--set", huge)
    assert re.search(r"--store runs: the plan writes about [\d.]+ TB, .* are free", err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "absent.yaml"], "rlm plan: absent.yaml: no such file"),
        (["plan", "experiments/table.yaml", "--scale", "tny"], "did you mean `tiny`?"),
        (["plan", "experiments/table.yaml", "--rows", "RELM"], "rlm plan: --rows: rows: no `RELM`; did you mean `REALM`?"),
        (["plan", "experiments/table.yaml", "--set", "x"], "rlm plan: --set x: write --set NAME=VALUE"),
        (["ask", "finetune-0", "who?"], "rlm ask: finetune-0: no such finished stage in runs"),
        (["generate", "retro_train-0", ""], "rlm generate: retro_train-0: no such finished stage in runs"),
        (["ui"], "rlm ui: --store runs: no such folder"),
    ],
)  # fmt: skip
def test_main__when_input_is_bad_one_line_says_so(folder: Path, arguments: list[str], message: str) -> None:
    code, _, err = _rlm(folder, *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_main__when_there_are_many_mistakes(folder: Path) -> None:
    code, _, err = _rlm(folder, "plan", "experiments/table.yaml", "--set", "x=1", "--set", "ict.y=2")
    assert code == 2
    assert err.startswith("rlm plan: 2 mistakes\n")
    assert "\n  --set x=1: x: no such field of RealmExperiment" in err
    assert "\n  --set ict.y=2: ict.y: no such field of IctConfig" in err


@pytest.mark.parametrize("number", ["--seeds=a", "--jobs=0", "--threads=-1"])
def test_main__when_a_number_is_wrong(capsys: pytest.CaptureFixture[str], number: str) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["run", "t.yaml", number])
    assert raised.value.code == 2
    assert "write" in capsys.readouterr().err


COMMANDS = [
    *(
        ["plan"],
        ["run"],
        ["table"],
        ["ask"],
        ["generate"],
        ["score"],
        ["ui"],
        ["data"],
        ["data", "check"],
        ["data", "fetch"],
    ),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help__when_shown_it_has_two_examples_that_parse(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    import shlex

    with pytest.raises(SystemExit) as raised:
        main([*command, "--help"])
    assert raised.value.code == 0
    text = capsys.readouterr().out
    examples = [line.strip() for line in text[text.index("examples:") :].splitlines()[1:]]
    assert len(examples) == 2
    for example in examples:
        words = shlex.split(example)
        assert words[: 1 + len(command)] == ["rlm", *command]
        parser().parse_args(words[1:])


def test_table__when_written_to_a_file(folder: Path) -> None:
    code, out, _ = _rlm(folder, "table", "experiments/table.yaml", "--format", "latex")
    assert (code, out) == (0, "the latex table of Ablations\n")
    code, out, _ = _rlm(folder, "table", "experiments/table.yaml", "--format", "csv", "--out", "out/t.csv")
    assert (code, out) == (0, "")
    assert (folder / "out" / "t.csv").read_text() == "the csv table of Ablations\n"


def test_score__when_called(folder: Path) -> None:
    code, out, _ = _rlm(folder, "score", "p.jsonl", "--answers", "a.jsonl", "--answer-kind", "regex")
    assert (code, out) == (0, "scored p.jsonl regex\n")


def test_main__when_batches_cannot_be_shared_among_the_devices_each_is_named(folder: Path) -> None:
    code, _, err = _rlm(folder, "plan", "experiments/table.yaml", "--devices", "7")
    assert code == 2
    for name in ("ict", "pretrain", "finetune"):
        assert f"{name}.training.batch_size: 8 examples cannot be shared equally by 7 devices" in err
