import errno
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rlm.config import Runtime
from rlm.data.config import RulesTagger, TrainedTokenizer
from rlm.errors import StageError
from rlm.stages.stage import Stage
from rlm.stages.store import Damaged, find_finished, prepare_store, read_record, run_stage, stage_folder


class _Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def progress(self, done: int, total: int, shown: Mapping[str, float]) -> None:
        self.steps.append((done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)


Run = Callable[..., dict[str, float]]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Run], None]:
    """Puts a function in the place of a stage."""

    def install(name: str, run: Run) -> None:
        module = ModuleType(f"rlm.stages.{name}")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


def _write(config: Any, inputs: dict[str, Path], folder: Path, context: Any) -> dict[str, float]:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "a.bin").write_bytes(b"0123456789")
    (folder / "sub" / "b.txt").write_text("b")
    context.log({"loss": 1.5}, 3)
    context.progress(3, 10, loss=1.5)
    return {"loss": 1.5}


CORPUS = Stage(name="corpus", config={"tokenizer": TrainedTokenizer(vocab_size=64)})
SPANS = Stage(name="salient_spans", config=RulesTagger(), inputs={"text": CORPUS})


def test_run_stage__when_new(tmp_path: Path, fake: Callable[[str, Run], None]) -> None:
    fake("corpus", _write)
    notes = _Notes()
    folder = run_stage(CORPUS, tmp_path, Runtime(threads=1), notes)
    assert folder == tmp_path / "stages" / CORPUS.folder
    assert not folder.with_name(folder.name + ".tmp").exists()
    record = json.loads((folder / "stage.json").read_text())
    assert record["name"] == "corpus"
    assert record["key"] == CORPUS.key
    assert record["config"] == {"tokenizer": {"kind": "trained", "vocab_size": 64, "source": None}}
    assert record["metrics"] == {"loss": 1.5}
    assert record["files"]["sub/b.txt"] == {
        "bytes": 1,
        "sha256": "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d",
    }
    assert set(record["files"]) == {"a.bin", "sub/b.txt", "events.jsonl"}
    for field in ("seconds", "core_seconds", "gpu_seconds", "peak_memory_bytes", "disk_bytes", "started", "device"):
        assert field in record
    assert record["peak_memory_bytes"] > 5e6
    assert json.loads((folder / "events.jsonl").read_text())["metrics"] == {"loss": 1.5}
    assert notes.steps == [(3, 10)]


def test_run_stage__when_finished_it_is_not_repeated(tmp_path: Path, fake: Callable[[str, Run], None]) -> None:
    calls = []

    def once(*arguments: Any) -> dict[str, float]:
        calls.append(1)
        return _write(*arguments)

    fake("corpus", once)
    for _ in range(3):
        run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    assert calls == [1]


def test_run_stage__when_interrupted_it_goes_on_in_the_same_folder(
    tmp_path: Path, fake: Callable[[str, Run], None]
) -> None:
    def stop(config: Any, inputs: Any, folder: Path, context: Any) -> dict[str, float]:
        (folder / "checkpoint").write_text("step 5")
        raise KeyboardInterrupt

    def resume(config: Any, inputs: Any, folder: Path, context: Any) -> dict[str, float]:
        assert (folder / "checkpoint").read_text() == "step 5"
        return {}

    fake("corpus", stop)
    with pytest.raises(KeyboardInterrupt):
        run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    assert find_finished(CORPUS, tmp_path) is None
    fake("corpus", resume)
    run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    assert find_finished(CORPUS, tmp_path) is not None


def test_log__when_a_crash_cut_the_last_line(tmp_path: Path, fake: Callable[[str, Run], None]) -> None:
    work = stage_folder(tmp_path, CORPUS).with_name(CORPUS.folder + ".tmp")
    work.mkdir(parents=True)
    (work / "events.jsonl").write_text('{"step": 1, "ti')
    fake("corpus", _write)
    folder = run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    assert json.loads((folder / "events.jsonl").read_text().splitlines()[1])["step"] == 3


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda folder: (folder / "a.bin").write_bytes(b"0123"), "a.bin is truncated (4 bytes, 10 were"),
    "longer": (lambda folder: (folder / "a.bin").write_bytes(b"0" * 11), "a.bin is longer than it was (11 bytes"),
    "missing": (lambda folder: (folder / "sub" / "b.txt").unlink(), "sub/b.txt is missing"),
    "changed": (lambda folder: (folder / "a.bin").write_bytes(b"0123456780"), "a.bin is damaged (its SHA-256"),
    "record": (lambda folder: (folder / "stage.json").write_text("{"), "stage.json cannot be read"),
    "no record": (lambda folder: (folder / "stage.json").unlink(), "stage.json cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_run_stage__when_a_file_is_damaged_it_is_named_and_rebuilt(
    tmp_path: Path, fake: Callable[[str, Run], None], name: str
) -> None:
    fake("corpus", _write)
    folder = run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    damage, message = DAMAGES[name]
    damage(folder)
    with pytest.raises(Damaged) as raised:
        find_finished(CORPUS, tmp_path, hashes=True)
    assert f"{CORPUS.folder}: {message}" in str(raised.value)
    notes = _Notes()
    run_stage(CORPUS, tmp_path, Runtime(), notes)
    assert message in notes.notes[0]
    assert find_finished(CORPUS, tmp_path, hashes=True) is not None


def test_find_finished__when_times_changed_but_contents_did_not(
    tmp_path: Path, fake: Callable[[str, Run], None]
) -> None:
    fake("corpus", _write)
    folder = run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    os.utime(folder / "a.bin", (1, 1))
    assert find_finished(CORPUS, tmp_path, hashes=True) is not None
    verified = json.loads((folder / ".verified.json").read_text())
    assert verified["a.bin"] == [10, 10**9], "a second look reads nothing"


def test_run_stage__when_an_input_is_damaged_or_absent(tmp_path: Path, fake: Callable[[str, Run], None]) -> None:
    fake("corpus", _write)
    fake("salient_spans", _write)
    with pytest.raises(StageError, match=rf"its input text \({CORPUS.folder}\) is not in"):
        run_stage(SPANS, tmp_path, Runtime(), _Notes())
    folder = run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    (folder / "a.bin").write_bytes(b"")
    with pytest.raises(StageError, match=r"its input text is damaged: .*a.bin is truncated"):
        run_stage(SPANS, tmp_path, Runtime(), _Notes())


def test_find_finished__when_a_default_changed_since(tmp_path: Path, fake: Callable[[str, Run], None]) -> None:
    fake("corpus", _write)
    folder = run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    record = read_record(folder)
    record["config"]["tokenizer"]["lower_case"] = True  # A field that was removed since is no mistake.
    (folder / "stage.json").write_text(json.dumps(record))
    assert find_finished(CORPUS, tmp_path) is not None
    record["config"]["tokenizer"]["vocab_size"] = 4096
    (folder / "stage.json").write_text(json.dumps(record))
    with pytest.raises(StageError, match=r"default has changed .*`tokenizer.vocab_size` was 4096 and is now 64"):
        find_finished(CORPUS, tmp_path)


def test_run_stage__when_the_disk_is_full(tmp_path: Path, fake: Callable[[str, Run], None]) -> None:
    def full(config: Any, inputs: Any, folder: Path, context: Any) -> dict[str, float]:
        (folder / "checkpoint").write_text("step 5")
        raise OSError(errno.ENOSPC, "No space left on device")

    fake("corpus", full)
    with pytest.raises(StageError, match="no space left for .* free some and start again"):
        run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    work = stage_folder(tmp_path, CORPUS).with_name(CORPUS.folder + ".tmp")
    assert (work / "checkpoint").read_text() == "step 5"


def test_prepare_store__when_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match=r"--store .*file.*: cannot be written \(Not a directory\)"):
        prepare_store(tmp_path / "file" / "runs")


def _slow(config: Any, inputs: Any, folder: Path, context: Any) -> dict[str, float]:
    with (folder / "calls.txt").open("a") as file:
        file.write("x")
    time.sleep(0.3)
    return {}


def _run_in_process(store: Path) -> None:
    module = ModuleType("rlm.stages.corpus")
    module.run = _slow  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    run_stage(CORPUS, store, Runtime(), _Notes())


def test_run_stage__when_two_processes_want_it_one_computes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_run_in_process, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
        assert process.exitcode == 0
    assert (stage_folder(tmp_path, CORPUS) / "calls.txt").read_text() == "x"
