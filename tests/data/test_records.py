"""Records and their places."""

import gzip
from pathlib import Path

import pytest

from rlm.data.records import Problems, read_records
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
