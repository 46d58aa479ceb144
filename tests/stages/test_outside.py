"""A stage keeps nothing of files that are not those its key was made of."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rlm.config import Runtime
from rlm.data.config import CorpusConfig, FilesSource
from rlm.stages.outside import MARK, ChangedFiles, Content
from rlm.stages.stage import Stage
from rlm.stages.store import find_finished, run_stage, stage_folder
from rlm.stages.wire import pack, unpack

CONFIG = {"corpus": CorpusConfig(source=FilesSource(files=("wiki/*.jsonl",)))}


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, *arguments: Any) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files, in a working directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "wiki").mkdir(parents=True)
    for name in ("a", "b"):
        Path(f"data/wiki/{name}.jsonl").write_text(name)
    return Path("data")


def planned(data: Path) -> Stage:
    content = Content(data)
    digest = content.digest(CONFIG["corpus"].source)
    stage = Stage(name="corpus", config=CONFIG, content=digest, files=content.files(CONFIG))
    return unpack(pack(stage))  # as a worker gets it


@pytest.fixture
def compute(monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> Callable[..., Any]:
    """Runs the stage; what is done between is done while it reads."""

    def run(
        stage: Stage, between: Callable[[], Any] = lambda: None, ends: Callable[[Any], Any] = lambda c: None
    ) -> Any:
        def reads(config: Any, inputs: Any, folder: Path, context: Any) -> dict[str, float]:
            texts = [path.read_text() for path in sorted((data / "wiki").glob("*.jsonl"))]
            between()
            (folder / "read.txt").write_text("".join(texts))
            ends(context)
            return {"passages": float(len(texts))}

        module = ModuleType("rlm.stages.corpus")
        module.run = reads  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return run_stage(stage, tmp_path / "store", Runtime(threads=1, data=data.resolve()), notes)

    notes = Notes()
    run.notes = notes.notes  # type: ignore[attr-defined]
    return run


def swap(path: str, text: str) -> None:
    """Another file in its place, of the same size and time."""
    kept = os.stat(path)
    Path(f"{path}.new").write_text(text)
    os.replace(f"{path}.new", path)
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))


def rewrite(path: str, text: str) -> None:
    """Other bytes in the same file, of the same size and time."""
    kept = os.stat(path)
    Path(path).write_text(text)
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))


def test_stage__when_nothing_changed(data: Path, compute, tmp_path: Path) -> None:
    stage = planned(data)
    folder = compute(stage)
    assert (folder / "read.txt").read_text() == "ab"
    assert list(find_finished(stage, tmp_path / "store", hashes=True)["files"]) == ["read.txt"]


@pytest.mark.parametrize("change", [swap, rewrite])
def test_stage__when_a_file_was_replaced_before_it_began(data: Path, compute, tmp_path: Path, change) -> None:
    stage = planned(data)
    change("data/wiki/a.jsonl", "x")
    with pytest.raises(ChangedFiles, match=r"^data/wiki/a.jsonl: changed since the run was planned"):
        compute(stage, between=lambda: pytest.fail("it was read"))
    assert not stage_folder(tmp_path / "store", stage).exists()
    change("data/wiki/a.jsonl", "a")
    assert (compute(stage) / "read.txt").read_text() == "ab"


@pytest.mark.parametrize("change", [swap, rewrite])
def test_stage__when_a_file_was_replaced_and_put_back_while_it_was_read(data: Path, compute, tmp_path, change) -> None:
    stage = planned(data)

    def there_and_back() -> None:
        change("data/wiki/a.jsonl", "x")
        change("data/wiki/a.jsonl", "a")

    with pytest.raises(ChangedFiles, match="data/wiki/a.jsonl"):
        compute(stage, between=there_and_back)
    work = stage_folder(tmp_path / "store", stage).with_name(stage.folder + ".tmp")
    assert list(work.iterdir()) == [], "what it wrote may be of the other file"
    assert (compute(stage) / "read.txt").read_text() == "ab"


def test_content__when_a_file_is_replaced_while_the_table_is_planned(data: Path, compute) -> None:
    content = Content(data)
    digest = content.digest(CONFIG["corpus"].source)
    swap("data/wiki/a.jsonl", "x")
    with pytest.raises(ChangedFiles, match="data/wiki/a.jsonl"):
        compute(Stage(name="corpus", config=CONFIG, content=digest, files=content.files(CONFIG)))


@pytest.mark.parametrize("come", [True, False])
def test_stage__when_files_came_or_went(data: Path, compute, come: bool) -> None:
    stage = planned(data)
    changed = data / "wiki" / ("c.jsonl" if come else "b.jsonl")
    changed.write_text("c") if come else changed.unlink()
    with pytest.raises(ChangedFiles, match=f"^{changed}: came or went since the run was planned"):
        compute(stage)


def test_stage__when_a_file_goes_after_all_was_read(data: Path, compute) -> None:
    def ends(context: Any) -> None:
        context.all_read()
        shutil.rmtree("data")

    assert (compute(planned(data), ends=ends) / "read.txt").read_text() == "ab"


def test_stage__when_it_was_stopped_while_it_read_a_file_that_is_back(data: Path, compute, tmp_path: Path) -> None:
    """Half of its work may be of the other file."""
    stage = planned(data)

    def stop() -> None:
        work = stage_folder(tmp_path / "store", stage).with_name(stage.folder + ".tmp")
        (work / "half.bin").write_bytes(b"of the other")
        swap("data/wiki/a.jsonl", "x")
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compute(stage, between=stop)
        swap("data/wiki/a.jsonl", "a")
    folder = compute(stage)
    assert not (folder / "half.bin").exists() and not (folder / MARK).exists()
    assert "begins anew" in compute.notes[-1]


@pytest.mark.parametrize("read", [False, True])
def test_stage__when_it_was_stopped_and_its_files_are_the_same(data: Path, compute, tmp_path: Path, read) -> None:
    stage = planned(data)

    def stop(context: Any) -> None:
        work = stage_folder(tmp_path / "store", stage).with_name(stage.folder + ".tmp")
        (work / "half.bin").write_bytes(b"its own")
        if read:
            context.all_read()
            swap("data/wiki/a.jsonl", "a")  # the same bytes, copied: nothing of it is read any more
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute(stage, ends=stop)
    assert (compute(stage) / "half.bin").exists()
