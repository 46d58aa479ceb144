"""BLEU and chrF from sums, against sacrebleu's own figures."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from rlm.metrics.translation import bleu, chrf, sentence_statistics, signatures

HYPOTHESES = ["the cat sat on the mat .", "a dog runs", "", "Zwei Männer , die reden.", "no match here at all", "the"]
REFERENCES = [
    "the cat sat on a mat .",
    "a dog is running fast",
    "something",
    "Zwei Männer reden .",
    "xyz uvw rst",
    "the",
]


def figures(hypotheses: list[str], references: list[str]) -> tuple[float, float]:
    found = sentence_statistics(hypotheses, references)
    sums = {name: np.array(rows, np.float64).sum(0) for name, rows in found.items()}
    return float(bleu(sums["bleu"])), float(chrf(sums["chrf"]))


@pytest.mark.parametrize(
    "chosen",
    # the last four have no match, no 4-gram, no match of 4-grams, and nothing at all
    [[0, 1, 2, 3, 4, 5], [0], [0, 3], [1, 1, 3], [4], [5], [1], [2]],
)
def test_bleu__and_chrf_are_those_of_sacrebleu(chosen: list[int]) -> None:
    hypotheses, references = ([texts[number] for number in chosen] for texts in (HYPOTHESES, REFERENCES))
    expected = [metric.corpus_score(hypotheses, [references]).score for metric in (BLEU(), CHRF())]
    assert figures(hypotheses, references) == pytest.approx(expected, abs=1e-9)


def test_bleu__of_long_hypotheses_has_no_penalty_and_of_short_ones_one() -> None:
    long = figures([f"{REFERENCES[0]} and more"], REFERENCES[:1])[0]
    short = figures(["the cat sat on a"], REFERENCES[:1])[0]
    for text, found in ((f"{REFERENCES[0]} and more", long), ("the cat sat on a", short)):
        assert found == pytest.approx(BLEU().corpus_score([text], [REFERENCES[:1]]).score, abs=1e-9)
    assert 0 < short < 80 < 100


def test_bleu__of_many_sums_at_once() -> None:
    rows = np.array(sentence_statistics(HYPOTHESES, REFERENCES)["bleu"], np.float64)
    drawn = np.random.default_rng(0).integers(0, 6, (50, 6))
    together = bleu(rows[drawn].sum(1))
    for found, sample in zip(together, drawn, strict=True):
        texts = [[each[number] for number in sample] for each in (HYPOTHESES, REFERENCES)]
        assert found == pytest.approx(BLEU().corpus_score(texts[0], [texts[1]]).score, abs=1e-9)


def test_signatures__tell_how_it_was_counted() -> None:
    found = signatures()
    assert found["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert found["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


@pytest.mark.parametrize(("hypotheses", "references"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_sentence_statistics__of_nothing_are_an_error(hypotheses: list[str], references: list[str]) -> None:
    with pytest.raises(ValueError, match="give a reference for each"):
        sentence_statistics(hypotheses, references)
