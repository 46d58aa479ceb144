"""BLEU and chrF as sums of statistics over sentences, so that a corpus's figure can be resampled (numpy only).

The statistics of a sentence are sacrebleu's; the formulas are too, and give the same figures.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ORDER = 4
"""Longest n-gram of words in BLEU."""
CHARACTERS, BETA = 6, 2
"""Longest n-gram of characters in chrF, and the weight of recall."""


def bleu(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corpus BLEU, percent (Papineni et al. 2002; smoothing of counts that are 0 as mteval-v13a).

    Args:
        sums: over sentences, of lengths of hypothesis and reference, n-grams found, and n-grams, [..., 2 + 2 * ORDER].
    """
    ours, theirs = sums[..., 0], sums[..., 1]
    found, total = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    with np.errstate(divide="ignore", invalid="ignore"):
        halved = 2.0 ** np.cumsum(found == 0, axis=-1)
        precision = np.where(found == 0, 1 / halved, found) / total
        log_mean = np.log(precision).mean(axis=-1)
        brevity = np.minimum(0.0, 1 - theirs / ours)
        figure = 100 * np.exp(log_mean + brevity)
    return np.where((found.sum(axis=-1) > 0) & (total > 0).all(axis=-1), figure, 0.0)


def chrf(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corpus chrF2, percent (Popovic 2015): F of the mean precision and recall of n-grams of characters.

    Args:
        sums: over sentences, for each n of n-grams in the hypothesis, in the reference, and in both,
            [..., 3 * CHARACTERS].
    """
    counts = sums.reshape(*sums.shape[:-1], CHARACTERS, 3)
    ours, theirs, both = counts[..., 0], counts[..., 1], counts[..., 2]
    real = (ours > 0) & (theirs > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = (
            np.where(real, both / each, 0.0).sum(axis=-1) / real.sum(axis=-1) for each in (ours, theirs)
        )
        figure = (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)
    return np.where(both.sum(axis=-1) > 0, 100 * figure, 0.0)


def sentence_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, list[list[int]]]:
    """What `bleu` and `chrf` sum, of each sentence, by metric.

    Raises ValueError where there is no sentence, or not a reference for each.
    """
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} translations and {len(references)} references; give a reference for each")
    return {
        name: [list(map(int, each)) for each in metric._extract_corpus_statistics(list(hypotheses), [list(references)])]
        for name, metric in _metrics().items()
    }


def signatures() -> dict[str, str]:
    """sacrebleu's description of each metric, by which its figures can be compared."""
    found = {}
    for name, metric in _metrics().items():
        metric.corpus_score(["a"], [["a"]])  # the number of references is part of it
        found[name] = str(metric.get_signature())
    return found


def _metrics() -> dict[str, Any]:
    from sacrebleu.metrics import BLEU, CHRF

    return {"bleu": BLEU(), "chrf": CHRF()}
