"""CoNLL files: one word and its tag a line, an empty line after each sentence; spans of tags and their F1."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rlm.data.text_files import open_text
from rlm.errors import listed

_TAG = re.compile(r"O|[BI]-.+")


class TaggedSentence(NamedTuple):
    words: tuple[str, ...]
    tags: tuple[str, ...]
    """`O`, `B-kind` or `I-kind` of each word."""


def read_conll(path: Path) -> list[TaggedSentence]:
    """Sentences of a file whose lines are a word, perhaps other columns, and a BIO or IO tag.

    Raises:
        ValueError: a line without a word and a tag, with the file and the number of the line; no sentence at all; a
            file that cannot be read.
    """
    sentences: list[TaggedSentence] = []
    rows: list[tuple[str, str]] = []
    with open_text(path, newline="\n") as file:
        for number, line in enumerate(file, 1):
            columns = re.split("[ \t]+", line.strip(" \t\r\n"))
            if columns == [""] or columns[0] == "-DOCSTART-":
                _close(sentences, rows)
            elif len(columns) < 2 or not _TAG.fullmatch(columns[-1]):
                found = listed([" ".join(columns)])
                raise ValueError(
                    f"{path}:{number}: `{found}` is not a word and its tag (O, B-kind or I-kind), separated by a tab or"
                    " spaces"
                )
            else:
                rows.append((columns[0], columns[-1]))
    _close(sentences, rows)
    if not sentences:
        raise ValueError(f"{path}: no sentences; write a word and its tag a line, an empty line between sentences")
    return sentences


def _close(sentences: list[TaggedSentence], rows: list[tuple[str, str]]) -> None:
    if rows:
        words, tags = zip(*rows, strict=True)
        sentences.append(TaggedSentence(words, tags))
        rows.clear()


_BEGINS = {"B": True, "S": True, "U": True, "I": False, "E": False, "L": False}


def tag_spans(tags: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Start, end (exclusive) and kind of each span, as the CoNLL evaluation reads tags.

    A span starts at `B-kind`, and at an `I-kind` that continues no span of its kind (which covers IO tags and models
    that break the scheme). E and L read as I, S and U as B; a tag without prefix as I.
    """
    start, kind = 0, ""
    for i, tag in enumerate((*tags, "O")):
        prefix, _, rest = tag.partition("-")
        begins, own = (_BEGINS[prefix], rest) if rest and prefix in _BEGINS else (False, "" if tag == "O" else tag)
        if begins or own != kind:
            if kind:
                yield start, i, kind
            start, kind = i, own


def span_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 over spans that agree in start, end and kind (the CoNLL evaluation); 0 without any."""
    pairs = [(set(tag_spans(a)), set(tag_spans(b))) for a, b in zip(gold, predicted, strict=True)]
    right = sum(len(a & b) for a, b in pairs)
    wanted, found = sum(len(a) for a, _ in pairs), sum(len(b) for _, b in pairs)
    return {
        "precision": right / max(found, 1),
        "recall": right / max(wanted, 1),
        "f1": 2 * right / max(found + wanted, 1),
    }
