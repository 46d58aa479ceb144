import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from rlm import launch
from rlm.config import Runtime
from rlm.data.config import RulesTagger, TrainedTokenizer
from rlm.errors import ConfigError
from rlm.launch import Event, LocalPool, gpu_memory, run_stages, share
from rlm.stages.stage import Stage
from rlm.stages.store import find_finished, prepare_store

FAKES = Path(__file__).parent / "fakes"
ROOT = Path(__file__).parents[1]


class _Instant:
    """A launcher whose stages end at once, except those it was told to fail or lose."""

    def __init__(self, slots: int = 1, fail: tuple[str, ...] = (), lose: tuple[str, ...] = ()) -> None:
        self.order: list[str] = []
        self._slots, self._fail, self._lose = slots, set(fail), list(lose)
        self._events: list[Event] = []

    def free(self) -> int:
        return self._slots - len(self._events)

    def submit(self, stage: Stage) -> None:
        self.order.append(stage.key)
        if stage.key in self._lose:
            self._lose.remove(stage.key)
            self._events.append(Event("lost", stage.key, {"message": "was killed"}))
        elif stage.key in self._fail:
            self._events.append(Event("failed", stage.key, {"message": "met bad input"}))
        else:
            self._events.append(Event("done", stage.key))

    def wait(self, seconds: float) -> list[Event]:
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        pass


def _stage(name: str, number: int, **inputs: Stage) -> Stage:
    return Stage(name=name, config={"number": number}, inputs=inputs)


CORPUS = _stage("corpus", 0)
LEFT, RIGHT = _stage("ict", 1, corpus=CORPUS), _stage("index", 2, corpus=CORPUS)
LAST = _stage("evaluate", 3, finetune=LEFT)
STAGES = {stage.key: stage for stage in (CORPUS, LEFT, RIGHT, LAST)}


def _ignore(event: Event) -> None:
    pass


def test_run_stages__when_inputs_come_first_and_long_ways_before_short() -> None:
    launcher = _Instant()
    outcome = run_stages(STAGES, set(), launcher, _ignore, lambda stage: 5.0 if stage is RIGHT else 1.0)
    assert launcher.order == [CORPUS.key, RIGHT.key, LEFT.key, LAST.key]
    assert outcome.done == launcher.order
    assert run_stages(STAGES, {CORPUS.key}, launcher := _Instant(), _ignore).done == [LEFT.key, *launcher.order[1:]]
    assert launcher.order == [LEFT.key, RIGHT.key, LAST.key] or launcher.order == [LEFT.key, LAST.key, RIGHT.key]


def test_run_stages__when_a_stage_reads_the_user_s_files_it_is_among_the_first() -> None:
    """A mistake in the questions is not found after hours of pre-training."""
    questions, launcher = _stage("questions", 4), _Instant()
    last = _stage("evaluate", 5, finetune=LEFT, questions=questions)
    stages = {stage.key: stage for stage in (CORPUS, LEFT, RIGHT, questions, last)}
    run_stages(stages, set(), launcher, _ignore)
    assert set(launcher.order[:2]) == {CORPUS.key, questions.key}


def test_run_stages__when_files_are_read_with_a_tokenizer_they_come_before_training() -> None:
    text, launcher = replace(_stage("documents", 6, tokenizer=CORPUS), content="of files"), _Instant()
    stages = {stage.key: stage for stage in (CORPUS, LEFT, RIGHT, text)}
    run_stages(stages, set(), launcher, _ignore, lambda stage: 1.0 if stage is text else 5.0)
    assert launcher.order[:2] == [CORPUS.key, text.key]


def test_run_stages__when_all_is_finished() -> None:
    launcher = _Instant()
    run_stages(STAGES, set(STAGES), launcher, _ignore)
    assert launcher.order == []


def test_run_stages__when_one_fails_others_go_on() -> None:
    launcher = _Instant(fail=(LEFT.key,))
    outcome = run_stages(STAGES, set(), launcher, _ignore)
    assert outcome.failed == {LEFT.key: "met bad input"}
    assert outcome.skipped == {LAST.key: LEFT.key}
    assert set(outcome.done) == {CORPUS.key, RIGHT.key}


def test_run_stages__when_a_process_is_lost_the_stage_is_tried_once_more() -> None:
    events: list[Event] = []
    launcher = _Instant(lose=(LEFT.key,))
    outcome = run_stages(STAGES, set(), launcher, events.append)
    assert outcome.failed == {}
    assert launcher.order.count(LEFT.key) == 2
    assert [event.data["text"] for event in events if event.kind == "note"] == ["was killed; starting it once more"]
    outcome = run_stages(STAGES, set(), _Instant(lose=(LEFT.key, LEFT.key)), _ignore)
    assert outcome.failed == {LEFT.key: "was killed"}


def test_share__when_there_are_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "gpu_memory", lambda runtime: [8e10] * 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    assert share(Runtime()).jobs == 4
    assert share(Runtime()).threads == 4
    assert share(Runtime(devices=2)).jobs == 2
    monkeypatch.setattr(launch, "gpu_memory", lambda runtime: [])
    assert (share(Runtime()).jobs, share(Runtime()).threads) == (8, 2)
    assert (share(Runtime(jobs=2)).jobs, share(Runtime(jobs=2)).threads) == (2, 8)
    assert share(Runtime(jobs=2, threads=3)).threads == 3
    with pytest.raises(ConfigError, match="--device cuda: nvidia-smi shows no GPU"):
        share(Runtime(device="cuda"))


def test_gpu_memory__when_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(*arguments: object, **options: object) -> object:
        return subprocess.CompletedProcess([], 0, stdout="1000\n2000\n3000\n")

    monkeypatch.setattr(launch.subprocess, "run", listed)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_memory(Runtime()) == [1000 * 2**20, 2000 * 2**20, 3000 * 2**20]
    assert gpu_memory(Runtime(device="cpu")) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert gpu_memory(Runtime()) == [3000 * 2**20, 1000 * 2**20]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_memory(Runtime()) == []


# From here on, real processes.

REAL_CORPUS = Stage(name="corpus", config={"tokenizer": TrainedTokenizer(vocab_size=64)})
REAL_SPANS = Stage(name="salient_spans", config=RulesTagger(), inputs={"text": REAL_CORPUS})
REAL = {stage.key: stage for stage in (REAL_CORPUS, REAL_SPANS)}


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalPool]:
    monkeypatch.setenv("PYTHONPATH", f"{FAKES}{os.pathsep}{ROOT}")
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log.txt"))
    for name in ("FAKE_SECONDS", "FAKE_FAIL", "FAKE_DIE", "FAKE_FULL"):
        monkeypatch.delenv(name, raising=False)
    prepare_store(tmp_path)
    pool = LocalPool(tmp_path, Runtime(jobs=1, threads=1, device="cpu"))
    yield pool
    pool.close()


def _starts(folder: Path) -> Mapping[str, int]:
    names = [line.split()[0] for line in (folder / "log.txt").read_text().splitlines()]
    return {name: names.count(name) for name in names}


def test_local_pool__when_one_worker_runs_several_stages(pool: LocalPool, tmp_path: Path) -> None:
    events: list[Event] = []
    outcome = run_stages(REAL, set(), pool, events.append)
    assert outcome.done == [REAL_CORPUS.key, REAL_SPANS.key]
    assert _starts(tmp_path) == {REAL_CORPUS.folder: 1, REAL_SPANS.folder: 1}
    processes = {line.split()[1] for line in (tmp_path / "log.txt").read_text().splitlines()}
    assert len(processes) == 1
    progress = [event.data for event in events if event.kind == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] == 10
    assert progress[-1]["shown"] == {"loss": 0.1}
    log = tmp_path / "stages" / REAL_CORPUS.folder / "log.txt"
    assert log.read_text() == "fake corpus prints\n"


def test_local_pool__when_a_stage_raises(pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL", "corpus")
    outcome = run_stages(REAL, set(), pool, _ignore)
    assert outcome.failed == {REAL_CORPUS.key: "corpus met bad input in line 3; write something else"}
    log = launch.log_file(REAL_CORPUS, tmp_path).read_text()
    assert "fake corpus prints" in log
    assert "Traceback" in log


def test_local_pool__when_the_disk_is_full(pool: LocalPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FULL", "corpus")
    assert "no space left for" in run_stages(REAL, set(), pool, _ignore).failed[REAL_CORPUS.key]


def test_local_pool__when_a_worker_is_killed_it_is_replaced(
    pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DIE", f"corpus:{tmp_path / 'died'}")
    events: list[Event] = []
    outcome = run_stages(REAL, set(), pool, events.append)
    assert outcome.failed == {}
    assert _starts(tmp_path) == {REAL_CORPUS.folder: 2, REAL_SPANS.folder: 1}
    notes = [event.data["text"] for event in events if event.kind == "note"]
    assert "most likely because memory ran out: run fewer stages at a time (--jobs 1)" in notes[0]
    assert find_finished(REAL_SPANS, tmp_path, hashes=True) is not None


def test_local_pool__when_an_idle_worker_is_killed(pool: LocalPool, tmp_path: Path) -> None:
    run_stages({REAL_CORPUS.key: REAL_CORPUS}, set(), pool, _ignore)
    for child in psutil.Process().children():
        if "rlm.worker" in child.cmdline():
            child.kill()
    assert run_stages(REAL, {REAL_CORPUS.key}, pool, _ignore).done == [REAL_SPANS.key]


def _workers(count: int) -> list[psutil.Process]:
    """The workers, once each is more than a copy of this process."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = [child for child in psutil.Process().children() if "rlm.worker" in child.cmdline()]
        if len(found) == count:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{count} workers did not start")


def test_local_pool__when_freed_memory_is_kept(pool: LocalPool, tmp_path: Path) -> None:
    pool.submit(REAL_CORPUS)
    (worker,) = _workers(1)
    environment = worker.environ()
    assert int(environment["MALLOC_TRIM_THRESHOLD_"]) >= 2**32
    assert int(environment["MALLOC_MMAP_THRESHOLD_"]) >= 2**32
    assert environment["OMP_NUM_THREADS"] == "1"


def test_local_pool__when_there_are_gpus_each_member_gets_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: LocalPool
) -> None:
    monkeypatch.setattr(launch, "gpu_memory", lambda runtime: [8e10] * 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    gpus = LocalPool(tmp_path, replace(Runtime(), devices=2))
    try:
        gpus.submit(REAL_CORPUS)
        gpus.submit(_stage("questions", 1))
        assert gpus.free() == 0
        assert sorted(worker.environ()["CUDA_VISIBLE_DEVICES"] for worker in _workers(2)) == ["4,5", "6,7"]
    finally:
        gpus.close()


PARENT = """
import sys
from pathlib import Path
from rlm.config import Runtime
from rlm.launch import LocalPool
from rlm.stages.stage import Stage
from rlm.data.config import TrainedTokenizer
pool = LocalPool(Path(sys.argv[1]), Runtime(jobs=1, threads=1, device="cpu"))
pool.submit(Stage(name="corpus", config={"tokenizer": TrainedTokenizer(vocab_size=64)}))
while True:
    pool.wait(1.0)
"""


def test_local_pool__when_the_parent_is_killed_no_worker_stays(
    pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "60")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    deadline = time.monotonic() + 20
    while not (tmp_path / "log.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    worker = psutil.Process(int((tmp_path / "log.txt").read_text().split()[1]))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs([worker], timeout=10)
    assert not alive


def test_local_pool__when_a_stage_tells_a_secret(
    pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SAYS", "cannot reach http://ann:hunter2/s@cret@127.0.0.1:9/api")
    events: list[Event] = []
    outcome = run_stages(REAL, set(), pool, events.append)
    assert outcome.failed == {REAL_CORPUS.key: "OSError: cannot reach http://127.0.0.1:9/api"}
    log = launch.log_file(REAL_CORPUS, tmp_path).read_text()
    assert log.count("cannot reach http://127.0.0.1:9/api") == 3, "printed, written by C, in the traceback"
    pool.close()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes()


def test_local_pool__when_a_worker_is_killed_its_log_holds_no_secret(
    pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DIE", f"corpus:{tmp_path / 'died'}")
    work = tmp_path / "stages" / f"{REAL_CORPUS.folder}.tmp"
    work.mkdir()
    (work / "log.txt").write_text("of a child: http://ann:hunter2@host\n")
    run_stages(REAL, set(), pool, _ignore)
    log = (tmp_path / "stages" / REAL_CORPUS.folder / "log.txt").read_text()
    assert log.startswith("of a child: http://host\nfake corpus prints\n")


def test_local_pool__when_its_folder_of_logs_cannot_be_made_the_stages_fail_by_name(
    pool: LocalPool, tmp_path: Path
) -> None:
    (tmp_path / "workers").write_text("")
    outcome = run_stages(REAL, set(), pool, _ignore)
    assert "no worker could be started" in outcome.failed[REAL_CORPUS.key]
    assert str(tmp_path / "workers") in outcome.failed[REAL_CORPUS.key]
    assert outcome.skipped == {REAL_SPANS.key: REAL_CORPUS.key}


@pytest.mark.parametrize(
    "line",
    [
        b"not JSON",
        b"\xff\xfe",
        b"[1, 2]",
        b"{}",
        b'{"kind": "failed"}',
        b'{"kind": "progress", "done": "x"}',
        b"[" * 9999,
    ],
)
def test_local_pool__when_a_worker_writes_what_is_no_message_the_run_goes_on(
    pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    (tmp_path / "line").write_bytes(line)
    code = (
        "import sys\n"
        'print(\'{"kind": "ready"}\', flush=True)\n'
        "for request in sys.stdin:\n"
        f"    sys.stdout.buffer.write(open({str(tmp_path / 'line')!r}, 'rb').read() + b'\\n')\n"
        '    print(\'{"kind": "done"}\', flush=True)\n'
    )
    (tmp_path / "worker.py").write_text(code)
    start = subprocess.Popen
    monkeypatch.setattr(
        launch.subprocess,
        "Popen",
        lambda words, **options: start([sys.executable, str(tmp_path / "worker.py")], **options),
    )
    events: list[Event] = []
    assert run_stages(REAL, set(), pool, events.append).done == [REAL_CORPUS.key, REAL_SPANS.key]
    notes = [event.data["text"] for event in events if event.kind == "note"]
    assert len(notes) == 2 and notes[0].startswith("its process wrote what is no message: ")


def test_local_pool__when_a_worker_is_ended_by_a_signal_without_a_name(pool: LocalPool) -> None:
    assert pool._death(-40, None) == "its process was ended by signal 40"  # type: ignore[arg-type]
