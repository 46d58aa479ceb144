"""What is wrong in a data folder: every file read as its stage would read it."""

import re
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from rlm.data.conll import read_conll
from rlm.data.qa import read_questions
from rlm.data.records import ENDINGS, TABLE_ENDINGS, Problems, open_text, read_records, readable
from rlm.data.sources import COLUMNS, passages_of, place_of
from rlm.errors import ConfigError

Kind = Literal["passages", "questions", "tags", "unknown"]
FOLDERS: dict[str, Kind] = {"qa": "questions", "wiki": "passages", "ner": "tags"}
"""What the files of a folder should be, where their columns do not say."""


class FileReport(NamedTuple):
    """What one file holds."""

    path: Path
    kind: Kind
    records: int
    """Passages, questions, or sentences with tags."""
    problems: list[str]
    """Each with file and line, and what to write instead."""


def check_folder(folder: Path, progress: Callable[[Path, int], None] = lambda path, done: None) -> Iterator[FileReport]:
    """Read every file of a folder; what a file is, its columns say.

    Passage files whose names differ in digits only are one collection: their ids must differ.

    Args:
        folder: of data, or a single file.
        progress: called with the file and how many of its records were read.

    Raises:
        ConfigError: no such folder, or nothing in it that can be checked.
    """
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise ConfigError(f"{folder}: no such folder, or an empty one")
    checked = False
    for _, group in groupby(files, key=lambda path: re.sub(r"\d+", "#", str(path))):
        collection = list(group)
        seen: set[int] = set()
        for path in collection:
            report = _check(path, collection, seen, progress)
            checked = checked or report.kind != "unknown"
            yield report
    if not checked:
        raise ConfigError(f"{folder}: holds no file of passages, questions or tags ({', '.join(ENDINGS)}, .conll)")


def _check(path: Path, collection: list[Path], seen: set[int], progress: Callable[[Path, int], None]) -> FileReport:
    kind: Kind = "unknown"
    done = 0
    try:
        kind = _kind(path)
        if kind == "questions":
            done = len(read_questions(path))
        elif kind == "tags":
            with readable(path):
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
        return FileReport(path, kind, done, str(error).split("\n"))
    return FileReport(path, kind, done, [])


def _kind(path: Path) -> Kind:
    expected = FOLDERS.get(path.resolve().parent.name, "unknown")
    if path.name.endswith(".conll"):
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
    problems.check()
    return expected


def _is_answers(path: Path) -> bool:
    """Whether the first line of a table is a question of DPR's, `question<TAB>['answer']`."""
    with open_text(path) as file:
        return file.readline().partition("\t")[2].lstrip(' "').startswith("[")
