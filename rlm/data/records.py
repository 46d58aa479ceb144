"""Records of data files (JSON Lines, tab-separated, Parquet), each with its place, and problems shown together."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rlm.data.tables import read_rows
from rlm.data.text_files import open_text, readable, refuse_other_forms
from rlm.errors import ConfigError, listed, quoted

JSON_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
TABLE_ENDINGS = (".tsv", ".csv", ".tsv.gz", ".csv.gz")
"""Tab-separated in either case: that is how DPR names its files."""
ENDINGS = (*JSON_ENDINGS, *TABLE_ENDINGS, ".parquet")


class Record(NamedTuple):
    """One record and where it begins, for messages: `file:line` (Parquet: `file:row`, from 1)."""

    place: str
    number: int
    """Of the line that it ends on."""
    fields: dict[str, Any]
    halves: bool = True
    """Whether its texts may hold halves of characters."""


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
    if path.name.endswith(JSON_ENDINGS):
        yield from json_records(path, problems)
    elif path.name.endswith(TABLE_ENDINGS):
        yield from _table(path, problems, layouts)
    elif path.suffix == ".parquet":
        with readable(path):
            yield from _parquet(path)
    else:
        raise ConfigError(f"{path}: unknown kind of file; use one that ends in {', '.join(ENDINGS)}")


def json_records(path: Path, problems: Problems) -> Iterator[Record]:
    """The records of a file of JSON Lines, whatever its name; `problems` gets the lines that cannot be read.

    Raises:
        ConfigError: a file that cannot be read at all.
    """
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            try:
                fields = _decode(line)
            except (ValueError, RecursionError) as error:
                _refuse_markup(path, line)
                problems.add(f"{path}:{number}: not JSON to be read ({_why(error)}); write one JSON object per line")
                continue
            if isinstance(fields, dict):
                yield Record(f"{path}:{number}", number, fields, "\\" in line)
            else:
                problems.add(f'{path}:{number}: not a JSON object; write one per line, like {{"id": "1", ...}}')


def identity_of(record: Record, problems: Problems) -> str | None:
    """What the field `id` holds, a whole number as text; None, and a problem added, where it cannot be an id."""
    value = record.fields["id"]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return text_of(record, "id", problems)
    problems.add(f"{record.place}: `id` is {quoted(value)}; write text or a whole number")
    return None


def text_of(record: Record, name: str, problems: Problems) -> str | None:
    """What a field holds; None, and a problem added, where it is no text."""
    value = record.fields[name]
    if not isinstance(value, str):
        problems.add(f"{record.place}: `{name}` is {quoted(value)}; write text")
    elif record.halves and (half := lone_surrogate(value)):
        problems.add(f"{record.place}: `{name}` holds {half}; remove or repair it")
    else:
        return value
    return None


def lone_surrogate(text: str) -> str | None:
    """The first half of a character that has no other half, in words: JSON can write it, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half of a character (\\u{ord(text[error.start]):04x}, half of a surrogate pair)"
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ConfigError(f"it has the key {quoted(twice)} twice")
    return fields


def _no_number(name: str) -> NoReturn:
    raise ConfigError(f"{name} is no number in JSON, write null or leave it out")


_decode = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number).decode


def _why(error: Exception) -> str:
    """Why a line is not JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error) if isinstance(error, ConfigError) else "a number of thousands of digits"


def _refuse_markup(path: Path, line: str) -> None:
    if line.lstrip().lower().startswith(("<!doctype", "<html", "<?xml")):
        raise ConfigError(f"{path}: cannot be read (it is a web page, HTML or XML); download the file itself again")


def _table(path: Path, problems: Problems, layouts: Mapping[int, tuple[str, ...]] | None) -> Iterator[Record]:
    def lone_quote(number: int) -> None:
        after = f" (the row after {path}:{number - 1})" if number > 1 else ""
        problems.add(
            f"{path}:{number}{after}: a column begins with a quotation mark and does not end with one; write the text"
            ' between quotation marks, with "" for each one in it'
        )

    header: tuple[str, ...] = ()
    with open_text(path) as file:
        for first, last, columns in read_rows(file, lone_quote):
            place = f"{path}:{first}"
            if not header:
                _refuse_markup(path, columns[0])
                header = layouts.get(len(columns), next(iter(layouts.values()))) if layouts else tuple(columns)
                if not layouts:
                    if len(set(header)) < len(header):
                        problems.add(f"{place}: two columns have one name ({listed(header)}); give each its own")
                    continue
            if len(columns) == len(header):
                yield Record(place, last, dict(zip(header, columns, strict=True)), False)
            else:
                problems.add(
                    f"{place}: {len(columns)} columns instead of {len(header)} ({listed(header)}); separate them"
                    ' by one tab, and put text that holds tabs or line ends in double quotes ("" for a quote)'
                )


def _parquet(path: Path) -> Iterator[Record]:
    rows = (row for batch in _batches(path) for row in batch)
    for number, fields in enumerate(rows, start=1):
        yield Record(f"{path}:{number}", number, fields)


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    from pyarrow import parquet

    with path.open("rb") as file:
        start = file.read(262)
    if not start.startswith(b"PAR1"):
        refuse_other_forms(path, start)
    try:
        with parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if len(set(names)) < len(names):
                raise ValueError(f"two columns have one name: {listed(names)}")
            for batch in table.iter_batches(batch_size=4096):
                yield batch.to_pylist()
    except Exception as error:  # of Arrow, of values that Python cannot hold: they have no other base
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not a Parquet file that can be read ({reason}); write or copy it again") from error
