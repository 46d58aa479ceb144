"""Records of data files (JSON Lines, tab-separated, Parquet), each with its place, and problems shown together."""

import csv
import gzip
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

from rlm.errors import ConfigError

JSON_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
TABLE_ENDINGS = (".tsv", ".csv", ".tsv.gz", ".csv.gz")
"""Tab-separated in either case: that is how DPR names its files."""
ENDINGS = (*JSON_ENDINGS, *TABLE_ENDINGS, ".parquet")


class Record(NamedTuple):
    """One record and where it is, for messages: `file:line` (Parquet: `file:row`, from 1)."""

    place: str
    number: int
    fields: dict[str, Any]


class Problems:
    """Problems of one file, raised together."""

    shown = 10

    def __init__(self) -> None:
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        """Keep a problem.

        Raises:
            ConfigError: with all of them, once there are enough to show.
        """
        self.messages.append(message)
        if len(self.messages) == self.shown:
            raise ConfigError("\n".join([*self.messages, f"(reading stopped after {self.shown} problems)"]))

    def check(self) -> None:
        """Raise ConfigError if there was any problem."""
        if self.messages:
            raise ConfigError("\n".join(self.messages))


def open_text(path: Path, mode: Literal["r", "w"] = "r") -> IO[str]:
    """A text file in UTF-8, compressed if its name ends in `.gz`."""
    encoding = "utf-8-sig" if mode == "r" else "utf-8"  # spreadsheets put a byte order mark first
    if path.name.endswith(".gz"):
        return cast(IO[str], gzip.open(path, f"{mode}t", encoding=encoding, newline=""))
    return path.open(mode, encoding=encoding, newline="")


def read_records(
    path: Path, problems: Problems, layouts: Mapping[int, tuple[str, ...]] | None = None
) -> Iterator[Record]:
    """The records of one file, its form known by its name.

    Args:
        path: JSON Lines (`.jsonl`, `.json`), tab-separated (`.tsv`, `.csv`), either with `.gz` too, or `.parquet`.
        problems: gets the lines that cannot be read.
        layouts: names of the columns of a tab-separated file without a header, by how many columns its first line has;
            None where line 1 is the header.

    Raises:
        ConfigError: another kind of file, or one that cannot be read at all.
    """
    with readable(path):
        if path.name.endswith(JSON_ENDINGS):
            yield from _json_lines(path, problems)
        elif path.name.endswith(TABLE_ENDINGS):
            yield from _table(path, problems, layouts)
        elif path.suffix == ".parquet":
            yield from _parquet(path)
        else:
            raise ConfigError(f"{path}: unknown kind of file; use one that ends in {', '.join(ENDINGS)}")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what goes wrong while a file is read into a ConfigError that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); convert it to UTF-8") from error
    except (OSError, EOFError) as error:  # gzip raises either where a file is cut short
        raise ConfigError(f"{path}: cannot be read ({error}); copy or download it again") from error


def _json_lines(path: Path, problems: Problems) -> Iterator[Record]:
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                problems.add(f"{place}: not JSON ({error.msg}, column {error.colno}); write one JSON object per line")
                continue
            if isinstance(fields, dict):
                yield Record(place, number, fields)
            else:
                problems.add(f'{place}: not a JSON object; write one per line, like {{"id": "1", ...}}')


def _table(path: Path, problems: Problems, layouts: Mapping[int, tuple[str, ...]] | None) -> Iterator[Record]:
    with open_text(path) as file:
        rows = csv.reader(file, delimiter="\t")
        header: tuple[str, ...] = ()
        try:
            for row in rows:
                if not header:
                    header = layouts.get(len(row), next(iter(layouts.values()))) if layouts else tuple(row)
                    if not layouts:
                        continue
                place = f"{path}:{rows.line_num}"
                if len(row) == len(header):
                    yield Record(place, rows.line_num, dict(zip(header, row, strict=True)))
                elif row:
                    problems.add(
                        f"{place}: {len(row)} columns instead of {len(header)} ({', '.join(header)}); separate them"
                        ' by one tab, and put text that holds tabs or line ends in double quotes ("" for a quote)'
                    )
        except csv.Error as error:
            problems.add(f"{path}:{rows.line_num}: {error}; close the double quotes around the text, or remove them")


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise ConfigError(f"{path}: not a Parquet file ({error}); copy or download it again") from error
    with table:
        rows = (row for batch in table.iter_batches(batch_size=4096) for row in batch.to_pylist())
        for number, fields in enumerate(rows, start=1):
            yield Record(f"{path}:{number}", number, fields)
