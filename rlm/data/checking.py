"""What is wrong in a data folder: every file read as its stage would read it."""

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from rlm.data.conll import read_conll
from rlm.data.qa import read_questions
from rlm.data.records import ENDINGS, TABLE_ENDINGS, Problems, read_records
from rlm.data.sources import COLUMNS, passages_of, place_of
from rlm.data.text_files import fault_of, open_text, readable, unlistable
from rlm.errors import ConfigError

Kind = Literal["passages", "questions", "tags", "unknown"]
FOLDERS: dict[str, Kind] = {"qa": "questions", "wiki": "passages", "ner": "tags"}
"""What the files of a folder should be, where their columns do not say."""
TAGS_ENDINGS = (".conll", ".conll.gz")


class FileReport(NamedTuple):
    """What one file holds."""

    path: Path
    kind: Kind
    records: int
    """Passages, questions, or sentences with tags."""
    problems: list[str]
    """Each with file and line, and what to write instead."""
    notes: list[str]
    """What can be used and may be meant otherwise, likewise."""


def walk(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """The files below a folder, by name, and why other paths lead to none. Links are followed, each folder once."""
    files: list[Path] = []
    faults: dict[Path, str] = {}
    folders, seen = deque([folder]), set[tuple[int, int]]()
    while folders:
        current = folders.popleft()
        try:
            status = current.stat()
            inside = [] if (status.st_dev, status.st_ino) in seen else sorted(current.iterdir())
        except OSError as error:
            faults[current] = unlistable(current, error)
            continue
        seen.add((status.st_dev, status.st_ino))
        for path in inside:
            if (fault := fault_of(path)) is not None:
                faults[path] = fault
            elif path.is_file():
                files.append(path)
            elif not path.is_symlink():
                folders.appendleft(path)
            elif path.resolve() in (current.resolve(), *current.resolve().parents):
                faults[path] = f"{path}: a link to {path.resolve()}, a folder that it is in; remove the link"
            else:
                folders.append(path)  # after the folders themselves, which are not read again by another name
    return sorted(files), faults


def check_folder(folder: Path, progress: Callable[[Path, int], None] = lambda path, done: None) -> Iterator[FileReport]:
    """Read every file of a folder; what a file is, its columns say.

    Passage files whose names differ in digits only are one collection: their ids must differ.

    Args:
        folder: of data, or a single file.
        progress: called with the file and how many of its records were read.

    Raises:
        ConfigError: no such folder, or nothing in it that can be checked.
    """
    if not os.path.lexists(folder):
        raise ConfigError(f"{folder}: no such folder, or an empty one")
    if (fault := fault_of(folder)) is not None:
        raise ConfigError(fault)
    files, faults = ([folder], {}) if folder.is_file() else walk(folder)
    if not files and not faults:
        raise ConfigError(f"{folder}: no such folder, or an empty one")
    for path, fault in faults.items():
        yield FileReport(path, "unknown", 0, [fault], [])
    checked = bool(faults)
    collections: dict[str, list[Path]] = {}
    for path in files:
        collections.setdefault(re.sub(r"\d+", "#", str(path)), []).append(path)
    for collection in collections.values():
        seen: set[int] = set()
        for path in collection:
            report = _check(path, collection, seen, progress)
            checked = checked or report.kind != "unknown" or bool(report.problems)
            yield report
    if not checked:
        raise ConfigError(f"{folder}: holds no file of passages, questions or tags ({', '.join(ENDINGS)}, .conll)")


def _check(path: Path, collection: list[Path], seen: set[int], progress: Callable[[Path, int], None]) -> FileReport:
    kind: Kind = "unknown"
    done = 0
    notes: list[str] = []
    try:
        kind = _kind(path)
        if kind == "questions":
            done = len(read_questions(path, notes))
        elif kind == "tags":
            done = len(read_conll(path))
        elif kind == "passages":
            problems = Problems()
            records = read_records(path, problems)
            for done, _ in enumerate(passages_of(records, problems, seen, lambda i: place_of(i, collection)), start=1):
                if done % 5000 == 0:
                    progress(path, done)
            problems.check()
            if not done:
                raise ConfigError(f"{path}: holds no passage; give at least one record with {', '.join(COLUMNS)}")
    except ValueError as error:
        return FileReport(path, kind, done, str(error).split("\n"), notes)
    return FileReport(path, kind, done, [], notes)


def _kind(path: Path) -> Kind:
    with readable(path), path.open("rb"):
        pass  # whatever it is: a file that cannot be read is told
    expected = FOLDERS.get(path.resolve().parent.name, "unknown")
    if path.name.endswith(TAGS_ENDINGS):
        return "tags"
    if not path.name.endswith(ENDINGS):
        return "unknown"
    problems = Problems()
    first = next(read_records(path, problems), None)
    columns = set(first.fields) if first else set()
    if {"text", "title"} <= columns:
        return "passages"
    if "question" in columns or (path.name.endswith(TABLE_ENDINGS) and _is_answers(path)):
        return "questions"
    if expected == "unknown":
        problems.check()
    return expected


def _is_answers(path: Path) -> bool:
    """Whether the first line of a table is a question of DPR's, `question<TAB>['answer']`."""
    with open_text(path) as file:
        return file.readline().partition("\t")[2].lstrip(' "').startswith("[")
