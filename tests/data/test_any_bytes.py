"""Whatever a user's file holds, reading it succeeds or ends with messages that name it, never with anything else."""

import gzip
import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rlm.cli import main
from rlm.data.checking import check_folder
from rlm.data.config import FilesSource
from rlm.data.conll import read_conll
from rlm.data.document_records import part_of
from rlm.data.parallel import read_pairs
from rlm.data.parallel_config import AlignedSource, ParallelConfig
from rlm.data.qa import read_questions, write_questions
from rlm.data.sources import read_passages
from rlm.report import score

ENDINGS = (
    ".jsonl",
    ".json",
    ".tsv",
    ".csv",
    ".jsonl.gz",
    ".json.gz",
    ".tsv.gz",
    ".csv.gz",
    ".parquet",
    ".conll",
    ".txt",
)
BOUNDED = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
ANSWERS = '{"id": "1", "question": "q", "answers": ["a"]}\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


# Pieces of files that are nearly right, in any order, among any bytes.
PIECES = (
    *(b'{"id": "1", "title": "T", "text": "x"}\n', b'{"question": "q", "answers": ["a"]}\n', b'{"id":', b'"\\ud83d"'),
    *(b'{"id": "1", "prediction": "a"}\n', b'{"id": "1", "de": "a", "en": "b"}\n', b"id\ttext\ttitle\n", b"q\t['a']\n"),
    *(b'1\t"x', b'y"\tT\n', b"Oslo\tB-LOC\n", b"\n", b"\r", b"\t", b'"', b"[", b"{", b"}", b"]", b",", b"NaN", b"\xff"),
    *(
        b"\xef\xbb\xbf",
        b"\x1f\x8b\x08",
        b"PK\x03\x04",
        b"PAR1",
        b"\xff\xfe",
        b"\x00",
        b"<html>",
        b"9" * 5000,
        b"[" * 2000,
    ),
    *("é😀\u2028".encode(), b"(a+", b"['", b"']"),
)
anything = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join),
    st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=4)), max_size=12).map(b"".join),
)
damage = st.none() | st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8))


def readers(path: Path) -> Iterator[Any]:
    """Every reader of data files, on one file."""
    yield lambda: list(read_passages(FilesSource(files=(path.name,)), path.parent))
    yield lambda: read_questions(path)
    yield lambda: read_conll(path)
    pairs = FilesSource(files=(path.name,))
    yield lambda: list(read_pairs(ParallelConfig(source=pairs, source_field="de", target_field="en"), path.parent))
    aligned = AlignedSource(source_file=path.name, target_file="lines.txt")
    yield lambda: list(read_pairs(ParallelConfig(source=aligned), path.parent))
    yield lambda: score(path, path.parent / "answers.jsonl")
    yield lambda: score(path.parent / "predictions.jsonl", path)
    yield lambda: score(path.parent / "predictions.jsonl", path, "regex")


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / "answers.jsonl").write_text(ANSWERS)
    (folder / "predictions.jsonl").write_text('{"id": "1", "prediction": "a"}\n')
    (folder / "lines.txt").write_text("a\nb\n")
    (folder / name).write_bytes(content)
    return folder / name


def refused(message: str, path: Path) -> None:
    assert message and "sys.set_int_max_str_digits" not in message
    for line in message.split("\n"):
        assert len(line) < 3000
        assert str(path.parent) in line or path.name in line or "reading stopped after" in line, line


@BOUNDED
@given(content=anything, ending=st.sampled_from(ENDINGS), packed=st.booleans(), damaged=damage)
@example(content=b"", ending=".parquet", packed=False, damaged=None)
@example(content=b"\xff" * 9000, ending=".jsonl.gz", packed=True, damaged=(30, b"\0\0"))
def test_any_bytes__are_read_or_refused(
    folder: Path, content: bytes, ending: str, packed: bool, damaged: tuple[int, bytes] | None
):
    if packed:
        content = gzip.compress(content, mtime=0)
    if damaged:
        place, wrong = damaged
        content = content[:place] + wrong + content[place + len(wrong) :]
    path = written(folder, f"file{ending}", content)
    for read in readers(path):
        try:
            read()
        except ValueError as error:
            refused(str(error), path)
    path.unlink()


@pytest.fixture(scope="module")
def parquet_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    columns = {
        "id": ["1", "2"],
        "title": ["A", "B"],
        "text": ["x", "y"],
        "question": ["q", "r"],
        "answers": [["a"], []],
    }
    parquet.write_table(pa.table(columns), path, compression="none")
    return path.read_bytes()


@BOUNDED
@given(place=st.integers(0, 3000), wrong=st.binary(min_size=1, max_size=6), cut=st.booleans())
def test_damaged_parquet__is_read_or_refused(folder: Path, parquet_file: bytes, place: int, wrong: bytes, cut: bool):
    place %= len(parquet_file)
    content = parquet_file[:place] + (b"" if cut else wrong + parquet_file[place + len(wrong) :])
    path = written(folder, "file.parquet", content)
    for read in list(readers(path))[:2]:
        try:
            read()
        except ValueError as error:
            refused(str(error), path)
    path.unlink()


texts = st.text(st.characters(exclude_categories=[]) | st.sampled_from("[]('\")+*a\\ud\n\t"), max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.just(10**4000)
    | st.sampled_from(["string", "regex"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
KNOWN = ("id", "title", "text", "question", "answers", "answer", "answer_kind", "answer_type", "prediction", "de", "en")
GOOD = {
    "id": "1",
    "title": "T",
    "text": "x",
    "question": "q",
    "answers": ["a"],
    "prediction": "a",
    "de": "a",
    "en": "b",
}
records = st.dictionaries(st.sampled_from(KNOWN) | texts, values, max_size=3).map(lambda some: GOOD | some)


@BOUNDED
@given(rows=st.lists(records, min_size=1, max_size=3), ascii_only=st.booleans())
@example(rows=[GOOD | {"id": float("nan")}], ascii_only=True)
@example(rows=[GOOD | {"answers": ["(a+)+$"], "prediction": "a" * 60 + "b", "answer_kind": "regex"}], ascii_only=True)
def test_any_values__of_known_fields_are_read_or_refused(folder: Path, rows: list[dict[str, Any]], ascii_only: bool):
    lines = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
    path = written(folder, "file.jsonl", lines.encode("utf-8", "surrogatepass"))
    for read in readers(path):
        try:
            read()
        except ValueError as error:
            refused(str(error), path)
    try:
        questions = read_questions(path)
    except ValueError:
        return
    write_questions(folder / "again.jsonl", questions)  # what is read can be written, and is the same
    assert read_questions(folder / "again.jsonl") == questions


@settings(BOUNDED, max_examples=60)
@given(content=anything, ending=st.sampled_from(ENDINGS), place=st.sampled_from(["", "qa", "wiki", "ner"]))
def test_any_bytes__end_the_commands_with_a_code_of_theirs(
    folder: Path, capsys: pytest.CaptureFixture[str], content: bytes, ending: str, place: str
):
    (folder / place).mkdir(exist_ok=True)
    path = written(folder / place, f"file{ending}", content)
    checked = main(["data", "check", str(path)])
    assert checked in (0, 1, 2)
    predictions, answers = str(path.parent / "predictions.jsonl"), str(path.parent / "answers.jsonl")
    assert main(["score", str(path), "--answers", answers]) in (0, 2)
    assert main(["score", predictions, "--answers", str(path)]) in (0, 2)
    assert main(["score", predictions, "--answers", str(path), "--answer-kind", "regex"]) in (0, 2)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    if checked == 1:
        assert f"{path}" in shown.out
    path.unlink()


@BOUNDED
@given(st.lists(st.text(st.sampled_from('a"\t\n\r'), max_size=12), min_size=1, max_size=4))
def test_any_tables__are_counted_row_by_row_or_refused(folder: Path, texts: list[str]):
    """No line that is a row by itself goes missing without a word."""
    path = folder / "rows.tsv"
    path.write_text("id\ttext\ttitle\n" + "".join(f"{i}\t{text}\tT\n" for i, text in enumerate(texts)), newline="")
    (report,) = check_folder(path)
    whole = [text for text in texts if not set(text) & set("\t\n\r") and text]
    assert report.problems or report.records >= len(whole)
    path.unlink()


@BOUNDED
@given(st.text(st.sampled_from(string.digits + ":-#a²٣"), max_size=40))
@example("a:b:" + "7" * 5000)
@example(":" * 100_000)
def test_any_id__belongs_to_a_document(identity: str):
    document, number = part_of(identity)
    assert identity.startswith(document) and number >= 0
