"""Records and their places."""

import gzip
from pathlib import Path

import pytest

from rlm.data.records import Problems, Record, identity_of, read_records, text_of
from rlm.errors import ConfigError

ROWS = [{"id": "1", "title": "Oslo", "text": "A town."}, {"id": "2", "title": "Rome", "text": 'Says "x".\tTab.'}]


def _write_parquet(path):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(ROWS), path)


FORMS = {
    "a.jsonl": '{"id": "1", "title": "Oslo", "text": "A town."}\n\n'
    '{"id": "2", "title": "Rome", "text": "Says \\"x\\".\\tTab."}\n',
    "a.tsv": 'id\ttext\ttitle\n1\tA town.\tOslo\n2\t"Says ""x"".\tTab."\tRome\n',
}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.tsv", "a.tsv.gz", "a.parquet"])
def test_read_records__gives_the_same_rows_in_every_form(tmp_path: Path, name: str):
    path = tmp_path / name
    if name == "a.parquet":
        _write_parquet(path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(FORMS[name.removesuffix(".gz")].encode()))
    else:
        path.write_text(FORMS[name])
    records = list(read_records(path, Problems()))
    assert [record.fields for record in records] == ROWS
    last = {"a.jsonl": 3, "a.jsonl.gz": 3, "a.tsv": 3, "a.tsv.gz": 3, "a.parquet": 2}[name]
    assert records[-1].place == f"{path}:{last}"


def test_read_records__ignores_a_byte_order_mark(tmp_path: Path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"\xef\xbb\xbfid\ttext\n1\tx\n")
    assert [record.fields for record in read_records(path, Problems())] == [{"id": "1", "text": "x"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"id": 1}\n{"id": 2,}\n', "a.jsonl:2: not JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: not a JSON object"),
        ("a.tsv", b"id\ttext\n1\tx\ty\n", "a.tsv:2: 3 columns instead of 2 (id, text)"),
        ("a.tsv", b'id\ttext\n1\t"' + b"x" * 200_000 + b"\n", "a.tsv:2 (the row after"),
    ],
)
def test_read_records__names_the_line_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    problems = Problems()
    list(read_records(tmp_path / name, problems))
    assert len(problems.messages) == 1
    assert message in problems.messages[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"id": "\xff"}\n', "not UTF-8"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"id": 1}\n' * 999, mtime=0)[:-9], "cannot be read"),
        ("a.parquet", b"no parquet", "not a Parquet file"),
        ("a.xml", b"", "unknown kind of file; use one that ends in .jsonl"),
    ],
)
def test_read_records__raises_when_the_file_is_damaged(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        list(read_records(tmp_path / name, Problems()))
    assert name in str(caught.value)


def test_problems__raise_ten_and_stop():
    problems = Problems()
    for i in range(9):
        problems.add(f"problem {i}")
    with pytest.raises(ConfigError) as caught:
        problems.add("problem 9")
    assert str(caught.value).splitlines() == [f"problem {i}" for i in range(10)] + [
        "(reading stopped after 10 problems)"
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": 1, "more": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"id": ' + "7" * 5000 + "}", "a number of thousands of digits"),
        ('{"id": NaN}', "NaN is no number in JSON"),
        ('{"id": 1, "x": [-Infinity]}', "-Infinity is no number in JSON"),
        ('{"id": 1, "text": "a", "id": 2}', "the key 'id' twice"),
        ('{"\\u0069d": 1, "text": "a", "id": 2}', "the key 'id' twice"),
        ('{"id": 1, "text": "a\x00"}', "Invalid control character"),
    ],
)
def test_read_records__names_a_line_that_json_cannot_hold_and_goes_on(tmp_path: Path, line: str, reason: str):
    (tmp_path / "a.jsonl").write_text(f'{{"id": 0}}\n{line}\n{{"id": 3}}\n')
    problems = Problems()
    assert [record.fields for record in read_records(tmp_path / "a.jsonl", problems)] == [{"id": 0}, {"id": 3}]
    (message,) = problems.messages
    assert "a.jsonl:2: not JSON" in message and reason in message and "\n" not in message and "sys." not in message


@pytest.mark.parametrize("name", ["a.jsonl", "a.tsv"])
@pytest.mark.parametrize("page", ["<!DOCTYPE html>\n<html>", "<html>\n", '<?xml version="1.0"?>\n<Error>'])
def test_read_records__names_a_web_page(tmp_path: Path, name: str, page: str):
    (tmp_path / name).write_text(page)
    with pytest.raises(ConfigError, match=rf"{name}: cannot be read \(it is a web page.*download"):
        list(read_records(tmp_path / name, Problems()))


def test_read_records__names_columns_of_one_name(tmp_path: Path):
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "a.tsv").write_text("id\ttext\ttext\n1\ta\tb\n")
    problems = Problems()
    list(read_records(tmp_path / "a.tsv", problems))
    assert "a.tsv:1: two columns have one name (id, text, text)" in problems.messages[0]
    parquet.write_table(pa.table([["1"], ["2"]], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet: .*two columns have one name: text, text"):
        list(read_records(tmp_path / "a.parquet", Problems()))


def test_read_records__names_a_parquet_file_that_is_damaged_or_none(tmp_path: Path):
    path = tmp_path / "a.parquet"
    _write_parquet(path)
    whole = path.read_bytes()
    for content in (whole[:-9], whole[:40] + b"\xff" * 60 + whole[100:], b"", b"PAR1", gzip.compress(whole)):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"a\.parquet: ") as caught:
            list(read_records(path, Problems()))
        assert "\n" not in str(caught.value)


def test_read_records__names_a_value_of_parquet_that_python_cannot_hold(tmp_path: Path):
    import pyarrow as pa
    from pyarrow import parquet

    text = pa.Array.from_buffers(pa.utf8(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    parquet.write_table(pa.table({"id": ["1"], "text": text}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet: not a Parquet file that can be read \(.*utf-8"):
        list(read_records(tmp_path / "a.parquet", Problems()))


@pytest.mark.parametrize(
    ("value", "identity"),
    [("a", "a"), (" a", " a"), (7, "7"), (0, "0"), (-1, "-1"), ("7", "7"), ("é", "é")]
    + [(value, None) for value in (True, False, 1.5, 1.0, float("inf"), [], ["a"], {"a": 1}, "", " \n", "\ud83d")],
)
def test_identity_of__is_text_or_a_whole_number(value: object, identity: str | None):
    problems = Problems()
    assert identity_of(Record("a.jsonl:3", 3, {"id": value}), problems) == identity
    assert [message.startswith("a.jsonl:3: `id` ") for message in problems.messages] == [True] * (identity is None)


def test_text_of__refuses_half_a_character():
    problems = Problems()
    assert text_of(Record("a:1", 1, {"text": "whole \U0001f600"}), "text", problems) == "whole \U0001f600"
    assert text_of(Record("a:1", 1, {"text": "half \ude00"}), "text", problems) is None
    assert problems.messages == [
        "a:1: `text` holds half of a character (\\ude00, half of a surrogate pair); remove or repair it"
    ]


def test_messages__of_long_and_odd_values_are_one_short_line(tmp_path: Path):
    deep: list = []
    for _ in range(500):
        deep = [deep, "x" * 10_000, "\n\x1b[31m"]
    problems = Problems()
    text_of(Record("a:1", 1, {"text": deep}), "text", problems)
    (tmp_path / "a.tsv").write_text("\t".join(f"column {i} \x1b" for i in range(1000)) + "\nx\n")
    list(read_records(tmp_path / "a.tsv", problems))
    assert len(problems.messages) == 2
    assert all(len(message) < 2000 and message.isprintable() for message in problems.messages)
