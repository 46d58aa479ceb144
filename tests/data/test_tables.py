"""Rows of tables, against Python's csv module where it writes them, and where a quotation mark stands alone."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm.data.tables import read_rows

BOUNDED = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def read(text: str) -> tuple[list[list[str]], list[int]]:
    lone: list[int] = []
    return [row.columns for row in read_rows(io.StringIO(text, newline=""), lone.append)], lone


columns = st.text(st.sampled_from('ab"\t\n\r ,é'), max_size=8)


@BOUNDED
@given(st.lists(st.lists(columns, min_size=3, max_size=3), min_size=1, max_size=5))
def test_read_rows__reads_back_what_csv_writes(rows: list[list[str]]):
    # A row that csv spreads over lines which look like rows themselves is what nobody can tell from lone marks.
    written = "".join(map("".join, rows))
    if "\t" in written and ("\n" in written or "\r" in written):
        return
    with io.StringIO(newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\r\n").writerows([["id", "text", "title"], *rows])
        text = file.getvalue()
    assert read(text) == ([["id", "text", "title"], *rows], [])


@BOUNDED
@given(st.lists(st.lists(st.text(st.sampled_from("ab' ,é"), min_size=1), min_size=2, max_size=2), min_size=1))
def test_read_rows__takes_text_without_quotation_marks_as_it_is(rows: list[list[str]]):
    assert read("".join("\t".join(row) + "\n" for row in rows)) == (rows, [])


@BOUNDED
@given(st.lists(st.text(st.sampled_from('ab"é '), min_size=1, max_size=6), min_size=1, max_size=6))
def test_read_rows__leaves_out_no_row_in_silence(texts: list[str]):
    rows, lone = read("id\ttext\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts)))
    assert len(rows) - 1 + len(lone) == len(texts)
    assert all(len(row) == 2 and "\n" not in row[1] for row in rows)


@pytest.mark.parametrize(
    ("text", "rows", "lone"),
    [
        ('1\t"He said ""no""."\tA\n', [["1", 'He said "no".', "A"]], []),
        ('1\t"Two\nlines"\tA\n2\tb\tB\n', [["1", "Two\nlines", "A"], ["2", "b", "B"]], []),
        ('1\t"Two\r\n\r\nlines"\tA\r\n', [["1", "Two\r\n\r\nlines", "A"]], []),
        ('1\tA\t"last\ncolumn"\n2\tB\tb\n', [["1", "A", "last\ncolumn"], ["2", "B", "b"]], []),
        ('"first\ncolumn"\tA\tb\n2\tB\tb\n', [["first\ncolumn", "A", "b"], ["2", "B", "b"]], []),
        ('1\t"a\ttab"\tA\n', [["1", "a\ttab", "A"]], []),
        ("1\t6' 2\" tall\tA\n", [["1", "6' 2\" tall", "A"]], []),
        ('1\t""\t""\n', [["1", "", ""]], []),
        ('1\t"""All"""\tA', [["1", '"All"', "A"]], []),
        # one that opens, one that closes, in the next row or later
        ('1\ta\tA\n2\t"Lone\tB\n3\tmark."\tC\n', [["1", "a", "A"], ["3", 'mark."', "C"]], [2]),
        (
            '1\ta\tA\n2\t"Lone\tB\n3\tc\tC\n4\tmark."\tD\n',
            [["1", "a", "A"], ["3", "c", "C"], ["4", 'mark."', "D"]],
            [2],
        ),
        # cut in one line, text goes on after it
        ('1\t"Lone" mark\tA\n2\tb\tB\n', [["2", "b", "B"]], [1]),
        ('1\t"Lone\t"A\n2\tb\tB\n', [["2", "b", "B"]], [1]),
        # never closed: the rest is read
        ('1\t"Lone\tA\n2\tb\tB\n3\tc\tC\n', [["2", "b", "B"], ["3", "c", "C"]], [1]),
        ('1\ta\tA\n2\t"Lone\tB\n', [["1", "a", "A"]], [2]),
        # several in a row
        ('1\t"a\tA\n2\t"b\tB\n3\t"c\tC\n4\td\tD\n', [["4", "d", "D"]], [1, 2, 3]),
        # blank lines and old line ends
        ("\n1\ta\tA\r\r2\tb\tB\r", [["1", "a", "A"], ["2", "b", "B"]], []),
    ],
)
def test_read_rows__joins_no_rows(text: str, rows: list[list[str]], lone: list[int]):
    shift = 0 if text.startswith("\n") else 1  # the header's line
    header = ["id", "text", "title"]
    found, marks = read("id\ttext\ttitle\n" + text if shift else text)
    assert found == ([header, *rows] if shift else rows)
    assert marks == [line + shift for line in lone]


def test_read_rows__says_where_a_row_begins_and_ends():
    rows = list(read_rows(io.StringIO('a\tb\n"1\n2"\tx\n3\ty\n', newline=""), print))
    assert [(row.first, row.last) for row in rows] == [(1, 1), (2, 3), (4, 4)]


def test_read_rows__takes_columns_of_any_length():
    assert read("1\t" + "word " * 100_000 + '\t"' + "x" * 300_000 + '"\n')[1] == []


def test_read_rows__takes_one_look_at_each_line_where_many_marks_stand_alone():
    text = "".join(f'{i}\t"text\tA\n' for i in range(20_000))
    rows, lone = read(text)
    assert (len(rows), len(lone)) == (0, 20_000)
