"""CoNLL files and their F1, against seqeval (the CoNLL evaluation in Python) on real and on random tags."""

import random
from pathlib import Path

import pytest

from rlm.data.conll import read_conll, span_f1, tag_spans


def test_read_conll__reads_words_and_tags_of_each_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("-DOCSTART- -X- O O\n\nAda NNP I-PER\nsat\tO\n\n\nParis B-LOC\n")
    first, second = read_conll(path)
    assert first.words == ("Ada", "sat") and first.tags == ("I-PER", "O")
    assert second == (("Paris",), ("B-LOC",))


@pytest.mark.parametrize("line", ["Paris", "Paris\tLOC", "Paris\tB-", "Paris\tX-LOC"])
def test_read_conll__names_file_and_line_of_a_damaged_one(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.conll"
    path.write_text(f"Ada\tB-PER\nsat\tO\n{line}\n")
    found = line.replace("\t", " ")
    with pytest.raises(ValueError, match=rf"a\.conll:3: `{found}` is not a word and its tag"):
        read_conll(path)


def test_read_conll__refuses_a_file_without_sentences(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("\n\n-DOCSTART- O\n")
    with pytest.raises(ValueError, match=r"a\.conll: no sentences"):
        read_conll(path)


def test_read_conll__reads_wikigold(data_folder: Path) -> None:
    sentences = read_conll(data_folder / "ner" / "wikigold.dev.conll")
    assert len(sentences) == 170  # empty lines of the file
    assert sum(tag.startswith("B-") for sentence in sentences for tag in sentence.tags) == 389


@pytest.mark.parametrize(
    "tags, spans",
    [
        (["B-X", "B-X", "I-X"], [(0, 1, "X"), (1, 3, "X")]),
        (["I-X", "I-X", "O", "I-Y"], [(0, 2, "X"), (3, 4, "Y")]),
        (["B-X", "I-Y"], [(0, 1, "X"), (1, 2, "Y")]),
        (["S-X", "B-X", "E-X"], [(0, 1, "X"), (1, 3, "X")]),
        (["B-creative-work", "I-creative-work"], [(0, 2, "creative-work")]),
        (["PER", "PER", "creative-work"], [(0, 2, "PER"), (2, 3, "creative-work")]),
        ([], []),
    ],
)
def test_tag_spans__reads_each_scheme(tags: list[str], spans: list[tuple[int, int, str]]) -> None:
    assert list(tag_spans(tags)) == spans


def test_span_f1__is_seqevals_on_random_tags() -> None:
    metrics = pytest.importorskip("seqeval.metrics")
    draw = random.Random(0)
    kinds = ["O", "O", "B-A", "I-A", "B-B", "I-B"]
    gold = [draw.choices(kinds, k=draw.randrange(1, 12)) for _ in range(200)]
    predicted = [[tag if draw.random() < 0.6 else draw.choice(kinds) for tag in tags] for tags in gold]
    expected = {
        "precision": metrics.precision_score(gold, predicted),
        "recall": metrics.recall_score(gold, predicted),
        "f1": metrics.f1_score(gold, predicted),
    }
    assert span_f1(gold, predicted) == pytest.approx(expected)
    assert 0.2 < expected["f1"] < 0.8


def test_span_f1__is_zero_without_spans() -> None:
    assert span_f1([["O"]], [["O"]]) == {"precision": 0, "recall": 0, "f1": 0}


def test_read_conll__leaves_out_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("\ufeffAda\tB-PER\r\n")
    assert read_conll(tmp_path / "a.conll") == [(("Ada",), ("B-PER",))]


def test_read_conll__names_the_line_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_bytes(b"Ada\tO\nS\xe3o\tO\n")
    with pytest.raises(ValueError, match=r"a\.conll:2: not UTF-8"):
        read_conll(tmp_path / "a.conll")


def test_read_conll__escapes_what_a_terminal_would_obey(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("\x1b[2J" + "x" * 1000)
    with pytest.raises(ValueError, match=r"a\.conll:1: `'\\x1b\[2Jx+\.\.\.x+'` is not a word") as caught:
        read_conll(tmp_path / "a.conll")
    assert len(str(caught.value)) < 500
