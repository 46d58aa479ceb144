"""What is read from outside the store: files of sources and checkpoints, and their digests (imports nothing heavy)."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from rlm.data.config import FilesSource, HubSource, SpacyTagger, TaggerConfig, TokenClassificationTagger
from rlm.data.parallel_config import AlignedSource, files_of
from rlm.data.sources import Source, source_files
from rlm.data.text_files import readable


class Checkpoint(Protocol):
    """Weights or a tokenizer by folder or hub name."""

    @property
    def name(self) -> str: ...


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, remembered for as long as its state is the same.

    Raises:
        ConfigError: it cannot be read.
    """
    with readable(Path(path)):
        return _sha256_of(os.path.realpath(path), file_state(path))


def content_digest(
    source: Source | TaggerConfig | Checkpoint, data: Path | None, sha256: Callable[[Path], str] = file_sha256
) -> str:
    """SHA-256 over the bytes of the files that a source, tagger or checkpoint reads, in order; "" where it reads none.

    A hub's data set or model is identified by its revision, which this returns for what has to have one. Files that did
    not change since they were last read (path and `file_state`) are not read again, so planning stays fast.

    Raises:
        ConfigError: files that are missing or cannot be read.
    """
    if isinstance(source, HubSource):
        return source.revision
    if files := _files(source, data):
        return hashlib.sha256("\n".join(map(sha256, files)).encode()).hexdigest()
    return (source.revision or "") if isinstance(source, TokenClassificationTagger) else ""


def files_read(config: Any, data: Path | None) -> dict[str, None]:
    """Paths of the files that a configuration names anywhere in it: of sources, taggers and checkpoints.

    Raises:
        ConfigError: files that are missing.
    """
    found = {str(path): None for path in _files(config, data)}
    parts: Iterator[Any] = iter(())
    if dataclasses.is_dataclass(config):
        parts = (getattr(config, field.name) for field in dataclasses.fields(config))
    elif isinstance(config, dict):
        parts = iter(config.values())
    elif isinstance(config, list | tuple):
        parts = iter(config)
    for part in parts:
        found |= files_read(part, data)
    return found


def _files(config: Any, data: Path | None) -> list[Path]:
    """What this configuration itself names, in the order of its digest."""
    if isinstance(config, FilesSource | AlignedSource):
        return source_files(files_of(config).files, data)
    if isinstance(config, SpacyTagger):
        folder = Path(config.pipeline).expanduser()
        return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if isinstance(config, HubSource) or not (
        isinstance(getattr(config, "name", None), str) and hasattr(config, "revision")
    ):
        return []
    trained_on = config.train_files if isinstance(config, TokenClassificationTagger) else ()
    files = source_files(trained_on, data) if trained_on else []
    folder = Path(config.name).expanduser()
    if folder.is_dir():
        files += sorted(path for path in folder.iterdir() if path.is_file())
    return files


def file_state(path: str | Path) -> tuple[int, ...]:
    """Size, times of change of its bytes and of anything, inode: a file replaced and put back differs in one."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@functools.cache
def _sha256_of(path: str, state: tuple[int, ...]) -> str:
    known = _remembered()
    if known.get(path, [])[:-1] == list(state):
        return str(known[path][-1])
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A file written just now may change again within the resolution of its time stamps.
    if time.time_ns() - max(state[1:3]) > 2e9 and file_state(path) == state:
        _remember({name: entry for name, entry in known.items() if Path(name).exists()} | {path: [*state, digest]})
    return digest


def _remembered() -> dict[str, list[Any]]:
    """Path -> [*file_state, SHA-256]; empty if there is no such file, or a damaged one."""
    try:
        known = json.loads(_memory().read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {name: entry for name, entry in known.items() if _is_entry(entry)}


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and [type(part) for part in entry] == [int] * 4 + [str] and len(entry[-1]) == 64


def _remember(known: dict[str, Any]) -> None:
    # where a home cannot be written to, it is remembered until this process ends
    with contextlib.suppress(OSError, RuntimeError):
        memory = _memory()
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=memory.parent) as folder:
            written = Path(folder) / memory.name
            written.write_text(json.dumps(known), encoding="utf-8")
            os.replace(written, memory)


def _memory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlm" / "digests.json"
