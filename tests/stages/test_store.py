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
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm.config import Runtime
from rlm.data.config import CorpusConfig, EncyclopediaSource, RulesTagger, TrainedTokenizer
from rlm.errors import StageError
from rlm.stages.forecast import Forecast, Machine
from rlm.stages.runs import find_run
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


@pytest.mark.parametrize("note", ["[1, 2]", '{"a.bin": 5}', "null", "[" * 100_000, b"\xff\x00", '{"a.bin": [10]}'])
def test_find_finished__when_the_note_of_checks_is_damaged_it_is_worth_nothing(
    tmp_path: Path, fake: Callable[[str, Run], None], note: str | bytes
) -> None:
    fake("corpus", _write)
    folder = run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    (folder / ".verified.json").write_bytes(note if isinstance(note, bytes) else note.encode())
    assert find_finished(CORPUS, tmp_path, hashes=True) is not None
    assert set(json.loads((folder / ".verified.json").read_text())) == {"a.bin", "events.jsonl", "sub/b.txt"}
    (folder / "a.bin").write_bytes(b"0123456780")
    (folder / ".verified.json").write_bytes(note if isinstance(note, bytes) else note.encode())
    with pytest.raises(Damaged, match="a.bin is damaged"):
        find_finished(CORPUS, tmp_path, hashes=True)


RECORDS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "metrics": (lambda record: record.pop("metrics"), "stage.json has no `metrics`"),
    "files": (lambda record: record.update(files=[1]), r"`files` is \[1\]"),
    "a file": (lambda record: record["files"].update({"a.bin": 5}), "`files` is "),
    "a file's size": (lambda record: record["files"]["a.bin"].update(bytes="10"), "`files` is "),
    "a file elsewhere": (lambda record: record["files"].update({"../a": record["files"]["a.bin"]}), "`files` is "),
    "config": (lambda record: record.update(config=None), "`config` is null"),
    "a metric": (lambda record: record["metrics"].update(loss="low"), "`metrics` is "),
    "a cost": (lambda record: record.update(core_seconds=-1), "`core_seconds` is -1"),
    "started": (lambda record: record.update(started=3), "`started` is 3"),
    "git": (lambda record: record.update(git={"commit": 1}), "`git` is "),
    "another stage's": (lambda record: record.update(key="0" * 16), "stage.json is that of corpus-0000000000000000"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_run_stage__when_a_record_has_another_form_it_is_named_and_made_again(
    tmp_path: Path, fake: Callable[[str, Run], None], name: str
) -> None:
    fake("corpus", _write)
    folder = run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    record = read_record(folder)
    damage, message = RECORDS[name]
    damage(record)
    (folder / "stage.json").write_text(json.dumps(record))
    with pytest.raises(Damaged, match=message):
        find_finished(CORPUS, tmp_path)
    run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    assert find_finished(CORPUS, tmp_path, hashes=True) is not None


def test_find_finished__when_a_file_may_not_be_read_nothing_is_taken_for_damaged(
    tmp_path: Path, fake: Callable[[str, Run], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("corpus", _write)
    folder = run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    (folder / ".verified.json").unlink()

    def refuse(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("rlm.stages.store.file_digest", refuse)
    with pytest.raises(StageError, match=r"a\.bin: may not be read \(Permission denied\)") as raised:
        find_finished(CORPUS, tmp_path, hashes=True)
    assert not isinstance(raised.value, Damaged)


def _linked(tmp_path: Path, what: str) -> None:
    """Moves a part of the finished store elsewhere, and leaves a link."""
    folder = stage_folder(tmp_path / "runs", CORPUS)
    path = {"stage": folder, "file": folder / "a.bin", "stages": folder.parent, "store": tmp_path / "runs"}[what]
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")


@pytest.mark.parametrize("what", ["stage", "file", "stages", "store"])
def test_run_stage__when_what_is_damaged_is_behind_a_link_only_the_link_goes(
    tmp_path: Path, fake: Callable[[str, Run], None], what: str
) -> None:
    fake("corpus", _write)
    folder = run_stage(CORPUS, tmp_path / "runs", Runtime(), _Notes())
    _linked(tmp_path, what)
    assert find_finished(CORPUS, tmp_path / "runs", hashes=True) is not None
    (folder / "a.bin").write_bytes(b"0123")
    notes = _Notes()
    run_stage(CORPUS, tmp_path / "runs", Runtime(), notes)
    assert "a.bin is truncated" in notes.notes[0]
    assert find_finished(CORPUS, tmp_path / "runs", hashes=True) is not None
    kept = {"stage": tmp_path / "elsewhere" / "a.bin", "file": tmp_path / "elsewhere"}.get(what)
    assert kept is None or kept.read_bytes() == b"0123"


@pytest.mark.parametrize(
    ("stands_there", "message"),
    [
        (lambda folder: folder.symlink_to("gone"), "it is a link to gone, which is not there"),
        (lambda folder: folder.write_text("x"), "it is no folder"),
    ],
)
def test_run_stage__when_something_else_has_its_name(
    tmp_path: Path, fake: Callable[[str, Run], None], stands_there: Callable[[Path], Any], message: str
) -> None:
    fake("corpus", _write)
    prepare_store(tmp_path)
    folder = stage_folder(tmp_path, CORPUS)
    stands_there(folder)
    stands_there(folder.with_name(f"{folder.name}.tmp"))
    with pytest.raises(Damaged, match=message):
        find_finished(CORPUS, tmp_path)
    run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    assert find_finished(CORPUS, tmp_path, hashes=True) is not None


def test_run_stage__when_it_goes_on_behind_a_link(tmp_path: Path, fake: Callable[[str, Run], None]) -> None:
    fake("corpus", _write)
    prepare_store(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    folder = stage_folder(tmp_path, CORPUS)
    folder.with_name(f"{folder.name}.tmp").symlink_to(tmp_path / "elsewhere")
    run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    assert find_finished(CORPUS, tmp_path, hashes=True) is not None
    assert (tmp_path / "elsewhere" / "a.bin").exists()


def test_run_stage__when_the_folder_cannot_be_renamed_across_file_systems(
    tmp_path: Path, fake: Callable[[str, Run], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def across(path: Path, target: Path) -> Path:
        if path.name == f"{CORPUS.folder}.tmp":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", across)
    fake("corpus", _write)
    run_stage(CORPUS, tmp_path, Runtime(), _Notes())
    assert find_finished(CORPUS, tmp_path, hashes=True) is not None
    assert [path.name for path in (tmp_path / "stages").iterdir()] == [CORPUS.folder]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "{store}/stages/x"),
            r"no space left for \S*runs \(.* GB free",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp"), r"no space left for /tmp \("),
        (
            OSError(errno.EIO, "Input/output error"),
            r"runs: Input/output error; mend --store \S*runs, or choose another",
        ),
        (OSError(errno.EROFS, "Read-only file system", "{store}/a"), r"runs/a: Read-only file system; mend --store"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), "^/data/x: Permission denied; mend it"),
    ],
)
def test_run_stage__when_the_disk_refuses(
    tmp_path: Path, fake: Callable[[str, Run], None], error: OSError, message: str
) -> None:
    store = tmp_path / "runs"
    if error.filename:
        error.filename = error.filename.format(store=store)

    def refused(*arguments: Any) -> dict[str, float]:
        raise error

    fake("corpus", refused)
    with pytest.raises(StageError, match=message):
        run_stage(CORPUS, store, Runtime(), _Notes())


def test_run_stage__when_its_configuration_names_an_address(tmp_path: Path, fake: Callable[[str, Run], None]) -> None:
    fake("corpus", _write)
    stage = Stage(name="corpus", config={"name": "https://ann:hunter2@host/x"})
    folder = run_stage(stage, tmp_path, Runtime(), _Notes())
    assert "hunter2" not in (folder / "stage.json").read_text()
    assert find_finished(stage, tmp_path) is not None
    record = read_record(folder)
    record["config"] = {"name": "https://ann:hunter2@host/x"}  # as it was written before
    (folder / "stage.json").write_text(json.dumps(record))
    assert find_finished(stage, tmp_path) is not None


# Values that JSON may hold where another was written.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished stage and its record."""
    store = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        module = ModuleType("rlm.stages.corpus")
        module.run = _write  # type: ignore[attr-defined]
        patch.setitem(sys.modules, module.__name__, module)
        folder = run_stage(CORPUS, store, Runtime(), _Notes())
    return store, read_record(folder)


@given(data=st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_find_finished__is_a_record_or_one_message_whatever_the_files_hold(
    finished: tuple[Path, dict[str, Any]], data: st.DataObject
) -> None:
    store, record = finished
    some = st.dictionaries(st.sampled_from(sorted(record)), ANYTHING, max_size=2)
    inner = st.sampled_from(["metrics", "files", "config", "git", "inputs"]).flatmap(
        lambda name: st.dictionaries(
            st.sampled_from(["a.bin", "loss", "commit", "text"]) | st.text(max_size=4), ANYTHING
        ).map(lambda fields: {name: {**record[name], **fields}})
    )
    text = st.one_of(
        (some | inner).map(lambda fields: json.dumps({**record, **fields})),
        ANYTHING.map(json.dumps),
        st.text(max_size=20),
    )
    folder = stage_folder(store, CORPUS)
    for name in ("stage.json", ".verified.json"):
        (folder / name).write_bytes(_bytes(data.draw(text | st.binary(max_size=20))))
    planned = Stage(
        name="corpus", config={"corpus": CorpusConfig(source=EncyclopediaSource()), "tokenizer": TrainedTokenizer()}
    )
    assert Forecast(store, Machine(device="cpu", threads=1)).cost(planned).seconds >= 0
    try:
        found = find_finished(CORPUS, store, hashes=True)
    except StageError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert found is not None and set(found) >= {"metrics", "files", "config"}
    assert find_run(store, "corpus", ["corpus"]) == folder


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
