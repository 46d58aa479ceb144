"""The store: one folder per finished stage, written once, checked before it is used (imports nothing heavy)."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from rlm.config import Runtime, identity, to_plain
from rlm.errors import StageError
from rlm.secrets import plain_without_secrets
from rlm.stage_record import RECORD, Damaged, read_json, read_record
from rlm.stages.cost import Meter, git_state, package_versions
from rlm.stages.outside import ChangedFiles, OutsideFiles, outside_files
from rlm.stages.stage import VERSIONS, Stage

# Written by the launcher beside the stage's own files while it runs.
LOG = "log.txt"
_VERIFIED = ".verified.json"
_UNCHECKED = {LOG, _VERIFIED, RECORD}
# What tables are made of.
_NEEDED = ("config", "files", "metrics", "core_seconds", "gpu_seconds", "started", "device", "git")


class Reporter(Protocol):
    """Who is told how a stage goes."""

    def progress(self, done: int, total: int, shown: Mapping[str, float]) -> None:
        """`done` of `total` units of work; `shown` are current figures such as the loss."""

    def note(self, text: str) -> None:
        """Something a user should know."""


def stage_folder(store: Path, stage: Stage) -> Path:
    """Where the finished stage is, or will be."""
    return store / "stages" / stage.folder


def work_folder(store: Path, stage: Stage) -> Path:
    """Where the stage is computed; made where it is not there.

    Raises:
        OSError: it cannot be made.
    """
    work = stage_folder(store, stage).with_name(stage.folder + ".tmp")
    if os.path.lexists(work) and not work.is_dir():  # a link to what is gone, or a file: nothing to go on from
        work.unlink()
    work.mkdir(parents=True, exist_ok=True)
    return work


def find_finished(stage: Stage, store: Path, hashes: bool = False) -> dict[str, Any] | None:
    """The record of a stage that is finished and whole; None where it is not there.

    Sizes are always compared. With `hashes`, a file whose size or time differs from the last check is read and
    its SHA-256 compared, so that a second look costs no reading.

    Raises:
        Damaged: a file is missing, truncated or changed; the message names it.
        StageError: a default of the configuration has changed since, so that the same key means something else; or a
            file may not be read.
    """
    folder = stage_folder(store, stage)
    if not os.path.lexists(folder):
        return None
    if not folder.is_dir():
        to = f"a link to {os.readlink(folder)}, which is not there" if folder.is_symlink() else "no folder"
        raise Damaged(f"{stage.folder}: it is {to}")
    record = read_record(folder, _NEEDED)
    of = f"{record.get('name', stage.name)}-{record.get('key', stage.key)}"
    if of != stage.folder:
        raise Damaged(f"{stage.folder}: {RECORD} is that of {of}")
    recorded, now = (plain_without_secrets(config) for config in (record["config"], to_plain(stage.config)))
    changed = _changed_default(recorded, now, "")
    if changed:
        raise StageError(
            f"{folder}: a default has changed since it was made: {changed}. Its key is the same, its meaning is not:"
            f" raise VERSIONS[{stage.name!r}] in rlm/stages/stage.py, write the old value in the table, or remove the"
            " folder"
        )
    _check_files(folder, record["files"], hashes)
    return record


def _changed_default(recorded: Any, now: Any, path: str) -> str:
    """The first field that both have, with another value. Added and removed fields are told apart by the key."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        for name in recorded.keys() & now.keys():
            changed = _changed_default(recorded[name], now[name], f"{path}.{name}" if path else name)
            if changed:
                return changed
        return ""
    return "" if recorded == now else f"`{path}` was {json.dumps(recorded)} and is now {json.dumps(now)}"


def _check_files(folder: Path, files: Mapping[str, Mapping[str, Any]], hashes: bool) -> None:
    verified = _verified(folder) if hashes else {}
    read = False
    for name, expected in files.items():
        try:
            found = (folder / name).stat()
        except OSError as error:
            raise _unreadable(folder, name, error) from None
        if not stat.S_ISREG(found.st_mode):
            raise Damaged(f"{folder.name}: {name} is no file")
        if found.st_size != expected["bytes"]:
            how = "truncated" if found.st_size < expected["bytes"] else "longer than it was"
            raise Damaged(f"{folder.name}: {name} is {how} ({found.st_size} bytes, {expected['bytes']} were written)")
        state = [found.st_size, found.st_mtime_ns]
        if hashes and verified.get(name) != state:
            try:
                digest = file_digest(folder / name)
            except OSError as error:
                raise _unreadable(folder, name, error) from None
            if digest != expected["sha256"]:
                raise Damaged(f"{folder.name}: {name} is damaged (its SHA-256 is not the recorded one)")
            verified[name] = state
            read = True
    if read:
        # A store that is only readable is checked again next time.
        with contextlib.suppress(OSError):
            (folder / _VERIFIED).write_text(json.dumps(verified), encoding="utf-8")


def _verified(folder: Path) -> dict[str, Any]:
    """File -> [size, time of change in ns] when its SHA-256 was last compared; nothing where the note is damaged."""
    try:
        verified = read_json(folder / _VERIFIED)
    except (OSError, ValueError):
        return {}
    return verified if isinstance(verified, dict) else {}


def _unreadable(folder: Path, name: str, error: OSError) -> StageError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return Damaged(f"{folder.name}: {name} is missing")
    if isinstance(error, PermissionError):  # nothing says that the stage is damaged: it is not removed
        return StageError(f"{folder / name}: may not be read ({error.strerror}); change its permissions")
    return Damaged(f"{folder.name}: {name} cannot be read ({error.strerror})")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prepare_store(store: Path) -> None:
    """Make the store's folders and see that they can be written.

    Raises:
        StageError: they cannot.
    """
    try:
        for name in ("stages", "locks"):
            (store / name).mkdir(parents=True, exist_ok=True)
        probe = store / f".writable-{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise StageError(
            f"--store {store}: cannot be written ({error.strerror or error}); choose a folder you may write"
        ) from None


@dataclass
class StageContext:
    """What a running stage may use: `rlm.stages.stage.Context` writing to the stage's folder."""

    seed: int
    runtime: Runtime
    threads: int
    folder: Path
    reporter: Reporter
    outside: OutsideFiles | None = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append to `events.jsonl`; a line that a crash cut off is closed first."""
        path = self.folder / "events.jsonl"
        line = {"step": int(step), "time": time.time(), "metrics": {name: float(v) for name, v in metrics.items()}}
        with path.open("ab+") as file:
            if file.tell() and not self._ends_line(file):
                file.write(b"\n")
            file.write(json.dumps(line).encode() + b"\n")

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Tell the reporter."""
        self.reporter.progress(int(done), int(total), shown)

    def all_read(self) -> None:
        """Compare what was read with what was planned."""
        if self.outside is not None:
            self.outside.all_read()

    @staticmethod
    def _ends_line(file: Any) -> bool:
        file.seek(-1, os.SEEK_END)
        return bool(file.read(1) == b"\n")


def run_stage(stage: Stage, store: Path, runtime: Runtime, reporter: Reporter) -> Path:
    """Compute a stage unless it is finished; its inputs must be.

    The stage works in `<name>-<key>.tmp/`, which an interrupted attempt leaves for the next, and the folder gets its
    name when all is written. A lock keeps two processes from computing the same key.

    Returns:
        the finished folder.

    Raises:
        StageError: an input is missing or damaged, the disk is full, or a default has changed since.
        Exception: whatever the stage itself raises.
    """
    prepare_store(store)
    lock = FileLock(store / "locks" / f"{stage.folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        reporter.note(f"{stage.folder}: waiting for another process that computes it")
        lock.acquire()
    try:
        folder = stage_folder(store, stage)
        try:
            if find_finished(stage, store, hashes=True) is not None:
                return folder
        except Damaged as error:
            reporter.note(f"{error}; it is computed again")
            _remove(folder)
        inputs = {role: _input_folder(role, source, stage, store) for role, source in stage.inputs.items()}
        return _compute(stage, store, inputs, runtime, reporter)
    except OSError as error:
        raise explain_os_error(error, store) from error
    finally:
        lock.release()


def _remove(folder: Path) -> None:
    """Of a link only the link: what it points to may be somebody's only copy."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink()


def _input_folder(role: str, source: Stage, stage: Stage, store: Path) -> Path:
    try:
        record = find_finished(source, store, hashes=True)
    except Damaged as error:
        raise StageError(f"{stage.folder}: its input {role} is damaged: {error}; start again to rebuild it") from None
    if record is None:
        raise StageError(f"{stage.folder}: its input {role} ({source.folder}) is not in {store}; start again")
    return stage_folder(store, source)


def explain_os_error(error: OSError, store: Path) -> Exception:
    """What the disk or its permissions refuse, in a user's words; any other error as it is."""
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes, Path)) else store
    ours = path.absolute().is_relative_to(store.absolute())
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = store if ours else path
        return StageError(
            f"no space left for {where} ({_free(where)}); free some and start again:"
            " finished stages are kept, the interrupted one goes on from its last checkpoint"
        )
    if error.errno in (errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM):
        advice = f"mend --store {store}, or choose another, and start again" if ours else "mend it and start again"
        return StageError(f"{path}: {error.strerror}; {advice}")
    return error


def _free(path: Path) -> str:
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return f"{shutil.disk_usage(path).free / 1e9:.2f} GB free"
    except OSError:
        return "a full disk"


def _clear(work: Path) -> None:
    """Remove what an attempt wrote, but for its log."""
    for path in work.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOG:
            path.unlink()


def _compute(stage: Stage, store: Path, inputs: dict[str, Path], runtime: Runtime, reporter: Reporter) -> Path:
    folder, work = stage_folder(store, stage), work_folder(store, stage)
    (work / RECORD).unlink(missing_ok=True)
    threads = runtime.threads or len(os.sched_getaffinity(0))
    outside = OutsideFiles(stage.files, work)
    if stage.files:
        if not outside.begin(outside_files(stage.config, runtime.data)):
            reporter.note(f"{stage.folder}: its files were touched while it was interrupted; it begins anew")
            _clear(work)
        outside.mark()
    context = StageContext(
        seed=stage.seed if stage.seed is not None else 0,
        runtime=runtime,
        threads=threads,
        folder=work,
        reporter=reporter,
        outside=outside,
    )
    compute = stage.load()
    try:
        with Meter(runtime) as meter:
            metrics = compute(stage.config, inputs, work, context)
        outside.all_read()
    except ChangedFiles:
        _clear(work)
        raise
    files = {
        path.relative_to(work).as_posix(): path
        for path in sorted(work.rglob("*"))
        if path.is_file() and path.relative_to(work).as_posix() not in _UNCHECKED
    }
    sizes = {name: path.stat().st_size for name, path in files.items()}
    record = {
        "name": stage.name,
        "key": stage.key,
        "version": VERSIONS[stage.name],
        "config": plain_without_secrets(to_plain(stage.config)),
        "identity": plain_without_secrets(identity(stage.config)),
        "inputs": {role: source.folder for role, source in stage.inputs.items()},
        "seed": stage.seed,
        **meter.cost(),
        "disk_bytes": sum(sizes.values()),
        "git": git_state(),
        "packages": package_versions(),
        "metrics": {name: float(value) for name, value in metrics.items()},
        "files": {name: {"bytes": sizes[name], "sha256": file_digest(path)} for name, path in files.items()},
    }
    verified = {name: [sizes[name], path.stat().st_mtime_ns] for name, path in files.items()}
    (work / _VERIFIED).write_text(json.dumps(verified), encoding="utf-8")
    with (work / RECORD).open("w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _rename(work, folder)
    return folder


def _rename(work: Path, folder: Path) -> None:
    """Give a finished stage its name; a container's lower layers are another file system than what is written now."""
    try:
        work.rename(folder)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = folder.with_name(f"{folder.name}.copy.tmp")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(work, copy)
        copy.rename(folder)
        _remove(work)
