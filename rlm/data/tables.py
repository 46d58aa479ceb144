"""Rows of tab-separated files, with quotation marks as Python's csv module writes them, and so DPR."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

_QUOTED = re.compile(r'((?:[^"]++|"")*+)("?)')
"""The rest of what stands in quotation marks, and the one that closes it, if the line has it."""


class Row(NamedTuple):
    """Columns, and the lines they stand on (from 1)."""

    first: int
    last: int
    columns: list[str]


def read_rows(lines: Iterable[str], lone_quote: Callable[[int], None]) -> Iterator[Row]:
    """The rows of a table; blank lines are none.

    A column that begins with a quotation mark ends with one, and holds every other twice; it may hold tabs and line
    ends. Any other column stands as it is. A quotation mark that is not closed so is told, its line left out, and
    reading goes on with the next: so that it never joins rows, one that is open where a second line has as many tabs
    as a row counts as not closed.

    Args:
        lines: with their ends.
        lone_quote: called with the number of a line that has such a column.
    """
    numbered = enumerate(lines, start=1)
    again: deque[tuple[int, str]] = deque()
    tabs: int | None = None  # between the columns of the first row
    while (line := again.popleft() if again else next(numbered, None)) is not None:
        first, text = line
        if '"' not in text:
            columns: list[str] | None = text.rstrip("\r\n").split("\t")
            read = [line]
        else:
            read = []
            columns = _columns(_lines_of_row(line, again, numbered, tabs, read))
        if columns is None:
            lone_quote(first)
            again.extendleft(reversed(read[1:]))
            continue
        if columns == [""]:
            continue
        tabs = len(columns) - 1 if tabs is None else tabs
        yield Row(first, read[-1][0], columns)


def _lines_of_row(
    line: tuple[int, str],
    again: deque[tuple[int, str]],
    numbered: Iterator[tuple[int, str]],
    tabs: int | None,
    read: list[tuple[int, str]],
) -> Iterator[str]:
    """Lines that may belong to one row: no two of them look like rows of their own. `read` gets those taken."""
    tabs = line[1].count("\t") if tabs is None else tabs
    rows = 0
    following: tuple[int, str] | None = line
    while following is not None:
        read.append(following)
        rows += following[1].count("\t") == tabs
        if rows > 1:
            return
        yield following[1]
        following = again.popleft() if again else next(numbered, None)


def _columns(lines: Iterator[str]) -> list[str] | None:
    """The columns of a row; None where a quotation mark that begins one is not closed."""
    columns: list[str] = []
    text, start = next(lines), 0
    while True:
        if text.startswith('"', start):
            parts: list[str] = []
            start += 1
            while not (found := _QUOTED.match(text, start))[2]:  # type: ignore[index]  # it matches always
                parts.append(found[1])  # type: ignore[index]
                following = next(lines, None)
                if following is None:
                    return None
                text, start = following, 0
            columns.append("".join([*parts, found[1]]).replace('""', '"'))  # type: ignore[index]
            end = found.end()  # type: ignore[union-attr]
        else:
            end = text.find("\t", start)
            end = len(text.rstrip("\r\n")) if end < 0 else end
            columns.append(text[start:end])
        if text[end : end + 1] == "\t":
            start = end + 1
        elif text[end:].rstrip("\r\n"):
            return None
        else:
            return columns
