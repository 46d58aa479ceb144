"""Where passages come from: the generated encyclopedia, files below the data folder, or the Hugging Face hub."""

import difflib
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rlm.data.config import EncyclopediaSource, FilesSource, HubSource
from rlm.data.records import Problems, Record, identity_of, read_records, text_of
from rlm.data.text_files import fault_of, unlistable
from rlm.errors import ConfigError, listed, quoted

Source = EncyclopediaSource | FilesSource | HubSource
COLUMNS = ("id", "title", "text")


class Passage(NamedTuple):
    """One record of a corpus: a passage, or a document that is cut into passages later."""

    id: str
    title: str
    text: str


def read_passages(source: Source, data: Path | None) -> Iterator[Passage]:
    """The passages of a source, in its order, at most its `limit`.

    Args:
        source: JSON Lines (`.gz` too), Parquet and DPR's TSV need the columns `id`, `title` and `text`.
        data: folder that a `files` source is relative to.

    Raises:
        ConfigError: no data folder, a pattern without a file, records that cannot be used (with file and line; up to
            ten of a file at once), an id that was used before (with both places), or no passage at all.
    """
    if isinstance(source, EncyclopediaSource):
        from rlm.data.encyclopedia import passages

        yield from passages(source)
        return
    if isinstance(source, FilesSource):
        named = ", ".join(source.files)
        found = unique_passages(source_files(source.files, data))
    else:
        from rlm.data.hub import hub_passages

        named = source.dataset
        found = hub_passages(source)
    first = next(found, None)
    if first is None:
        raise ConfigError(f"{named}: holds no passage; give at least one record with {', '.join(COLUMNS)}")
    yield first
    yield from found if source.limit is None else islice(found, source.limit - 1)


def unique_passages(files: list[Path]) -> Iterator[Passage]:
    """The passages of files that make up one collection.

    Raises:
        ConfigError: see `read_passages`; at the end of the file that has the problems.
    """
    seen: set[int] = set()
    for path in files:
        problems = Problems()
        yield from passages_of(read_records(path, problems), problems, seen, lambda identity: place_of(identity, files))
        problems.check()


def passages_of(
    records: Iterable[Record], problems: Problems, seen: set[int], place_of: Callable[[str], str]
) -> Iterator[Passage]:
    """The passages in records; `problems` gets what cannot be used.

    Args:
        records: of a file or a hub's data set.
        problems: of these records.
        seen: 64-bit hashes of the ids until now (about 70 bytes of memory each), to which these are added.
        place_of: where an id was met first, looked for only if it is met again.
    """
    for record in records:
        passage = passage_of(record, problems)
        if passage is None:
            continue
        key = hash(passage.id)
        if key in seen and (first := place_of(passage.id)) != record.place:
            problems.add(
                f"{record.place}: `id` {quoted(passage.id)} is also that of {first}; give each passage its own"
            )
            continue
        seen.add(key)
        yield passage


def passage_of(record: Record, problems: Problems) -> Passage | None:
    """The passage in a record; None, and its problems added, if it cannot be used."""
    fields = record.fields
    missing = [name for name in COLUMNS if fields.get(name) is None]
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        problems.add(f"{record.place}: no {names}; the record has: {listed(fields)}")
        return None
    identity = identity_of(record, problems)
    title, text = text_of(record, "title", problems), text_of(record, "text", problems)
    if text is not None and not text.strip():
        problems.add(f"{record.place}: `text` is empty; remove the record")
    elif identity is not None and title is not None and text is not None:
        return Passage(identity, title, text)
    return None


def place_of(identity: str, files: list[Path]) -> str:
    for path in files:
        for record in read_records(path, Problems()):
            if str(record.fields.get("id")) == identity:
                return record.place
    raise AssertionError(f"{identity!r} was read a moment ago")


def source_files(patterns: tuple[str, ...], data: Path | None) -> list[Path]:
    """The files that patterns name, in their order; a pattern's matches by name.

    Raises:
        ConfigError: no data folder, or a pattern that names no file.
    """
    if data is None:
        raise ConfigError(f"`kind: files` names {', '.join(patterns)}: give the folder they are in by --data FOLDER")
    if not data.is_dir():
        raise ConfigError(f"--data {data}: no such folder")
    files: dict[Path, None] = {}
    for pattern in patterns:
        if Path(pattern).is_absolute():
            raise ConfigError(f"{pattern}: write it relative to the data folder {data}, so that it holds elsewhere too")
        found = _matches(pattern, data)
        faults = [fault for path in found if (fault := fault_of(path)) is not None]
        if faults:
            raise ConfigError("\n".join(faults))
        matches = sorted(path for path in found if path.is_file())
        if not matches:
            known = sorted(str(path.relative_to(data)) for path in data.rglob("*") if os.path.isfile(path))
            close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4) or known[:3] or ["none"]
            raise ConfigError(f"{data / pattern}: no such file; files of the folder: {', '.join(close)}")
        files.update(dict.fromkeys(matches))
    return list(files)


def _matches(pattern: str, data: Path) -> list[Path]:
    """Whatever a pattern names. Globbing passes over folders that it may not list, so they are listed first."""
    try:
        if data / pattern == data:
            raise ValueError("it is the folder itself")
        if not any(wildcard in pattern for wildcard in "*?["):
            return [data / pattern] if _leads_somewhere(data / pattern) else []
        for folder in data.glob(str(Path(pattern).parent)) if Path(pattern).parent != Path(".") else [data]:
            if folder.is_dir():
                os.listdir(folder)
        return sorted(data.glob(pattern))
    except OSError as error:
        raise ConfigError(unlistable(Path(error.filename or data), error)) from error
    except (ValueError, IndexError, NotImplementedError) as error:
        raise ConfigError(
            f"files: {quoted(pattern)} names no file ({error}); write one such as wiki/*.jsonl"
        ) from error


def _leads_somewhere(path: Path) -> bool:
    """Whether there is a file, a link, or what keeps this from being known."""
    try:
        os.lstat(path)
    except OSError as error:
        return not isinstance(error, (FileNotFoundError, NotADirectoryError))
    return True
