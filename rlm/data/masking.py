"""Which word pieces of a sentence are masked: a pure function of scheme, example and epoch.

Random numbers come from a counter-based generator keyed by (seed, epoch, example), so they depend neither on the order
in which examples are read nor on the number of workers.
"""

import numpy as np
from numpy.typing import NDArray

from rlm.data.config import MaskingConfig, RandomSpans, SalientSpans
from rlm.data.salient_spans import SalientSpanTable
from rlm.data.tokens import Ragged

_SALIENT, _PIECES, _SPANS = 1, 2, 1 << 8  # draws; the k-th span of a sentence takes two draws from _SPANS + 2 k
_ATTEMPTS = 64
"""Spans drawn per sentence before what is left of the budget goes to single word pieces."""


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _step(x: NDArray[np.uint64], count: NDArray | int) -> NDArray[np.uint64]:
    return _mix(x + np.asarray(count, np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15))


def example_keys(seed: int, epoch: NDArray[np.int64] | int, examples: NDArray[np.integer]) -> NDArray[np.uint64]:
    """One key per example, [examples]."""
    with np.errstate(over="ignore"):
        start = _step(_step(np.zeros(1, np.uint64), seed), np.asarray(epoch))
        return _step(start, np.asarray(examples))


def uniform(keys: NDArray[np.uint64], draw: NDArray[np.integer] | int) -> NDArray[np.float64]:
    """The given draw of each key, in [0, 1)."""
    with np.errstate(over="ignore"):
        return (_step(keys, draw) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def eligible(table: SalientSpanTable, limit: int, max_masks: int) -> NDArray[np.bool_]:
    """Sentences with a salient span of at most `max_masks` word pieces within their first `limit`, [sentences]."""
    usable = _usable(table.starts, table.ends, np.full(len(table.starts), limit), max_masks)
    return np.bincount(_rows(table.starts)[usable], minlength=len(table.starts)) > 0


def _rows(ragged: Ragged) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(ragged)), ragged.lengths)


def _usable(starts: Ragged, ends: Ragged, lengths: NDArray[np.int64], max_masks: int) -> NDArray[np.bool_]:
    """Spans that end within their sentence and are short enough, [spans]."""
    first, last = starts.values.astype(np.int64), ends.values.astype(np.int64)
    return (last <= lengths[_rows(starts)]) & (last - first <= max_masks)


def choose_masks(
    scheme: MaskingConfig, sentences: Ragged, starts: Ragged, ends: Ragged, keys: NDArray[np.uint64], max_masks: int
) -> NDArray[np.bool_]:
    """The word pieces to mask.

    A salient span is drawn first for every scheme; where a scheme's `rate` is None, it masks exactly as many word
    pieces as that span has.

    Args:
        scheme: how they are chosen.
        sentences: word pieces.
        starts: first word piece of each salient span of a sentence.
        ends: the one after its last.
        keys: of the examples, [sentences].
        max_masks: most word pieces masked in a sentence; `rate` is cut to it.

    Returns:
        Aligned with `sentences.values`.

    Raises:
        ValueError: a sentence without a usable span.
    """
    first, last = _draw_salient(sentences, starts, ends, keys, max_masks)
    chosen = np.zeros(len(sentences.values), np.bool_)
    if isinstance(scheme, SalientSpans):
        _mark(chosen, sentences.offsets[:-1] + first, last - first)
        return chosen
    budget = last - first
    if scheme.rate is not None:
        wanted = np.maximum(np.rint(scheme.rate * sentences.lengths), 1).astype(np.int64)
        budget = np.minimum(np.minimum(wanted, max_masks), sentences.lengths)
    if isinstance(scheme, RandomSpans):
        budget = budget - _mark_spans(chosen, scheme, sentences, keys, budget)
    _mark_pieces(chosen, sentences, keys, budget)
    return chosen


def _draw_salient(
    sentences: Ragged, starts: Ragged, ends: Ragged, keys: NDArray[np.uint64], max_masks: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and end of one usable span per sentence, each as likely as the others."""
    usable = _usable(starts, ends, sentences.lengths, max_masks)
    row = _rows(starts)[usable]
    counts = np.bincount(row, minlength=len(sentences))
    if not counts.all():
        raise ValueError("a sentence has no salient span to mask; draw examples that are `eligible`")
    chosen = np.cumsum(counts) - counts + np.floor(uniform(keys, _SALIENT) * counts).astype(np.int64)
    return starts.values[usable][chosen].astype(np.int64), ends.values[usable][chosen].astype(np.int64)


def _mark(chosen: NDArray[np.bool_], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    offsets = np.cumsum(lengths) - lengths
    chosen[np.repeat(starts - offsets, lengths) + np.arange(lengths.sum())] = True


def _mark_pieces(
    chosen: NDArray[np.bool_], sentences: Ragged, keys: NDArray[np.uint64], budget: NDArray[np.int64]
) -> None:
    """Mark `budget` further word pieces of each sentence, each as likely as the others."""
    row = _rows(sentences)
    place = np.arange(len(row)) - sentences.offsets[row]
    with np.errstate(over="ignore"):
        draws = uniform(_step(keys, _PIECES)[row], place)
    order = np.lexsort((draws, chosen, row))  # by sentence, those not yet marked first
    chosen[order[place < budget[row]]] = True


def _mark_spans(
    chosen: NDArray[np.bool_],
    scheme: RandomSpans,
    sentences: Ragged,
    keys: NDArray[np.uint64],
    budget: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Mark spans of truncated geometric length until each sentence's budget is spent (SpanBERT, section 3.1).

    A span is cut to what is left of the budget; one that would touch a marked span is drawn again.

    Returns:
        Word pieces marked in each sentence.
    """
    marked = np.zeros(len(sentences), np.int64)
    lengths = np.arange(1, scheme.max_span + 1)
    weights = scheme.p * (1 - scheme.p) ** (lengths - 1)
    cumulative = np.cumsum(weights / weights.sum())
    for attempt in range(_ATTEMPTS):
        rows = np.flatnonzero(marked < budget)
        if not len(rows):
            break
        drawn = np.searchsorted(cumulative, uniform(keys[rows], _SPANS + 2 * attempt), "right") + 1
        length = np.minimum(drawn, budget[rows] - marked[rows])
        places = sentences.lengths[rows] - length + 1
        start = sentences.offsets[rows] + np.floor(uniform(keys[rows], _SPANS + 2 * attempt + 1) * places).astype(
            np.int64
        )
        before = np.concatenate([[0], np.cumsum(chosen)])
        free = before[start + length] == before[start]
        _mark(chosen, start[free], length[free])
        marked[rows[free]] += length[free]
    return marked
