"""Masking schemes against their definitions, and that nothing but example and epoch matters."""

from collections import Counter

import numpy as np
import pytest

from rlm.data.config import RandomSpans, SalientSpans, UniformTokens
from rlm.data.masking import choose_masks, example_keys, uniform
from rlm.data.tokens import Ragged

LENGTHS = [12, 20, 7, 30]
# start and end of the salient spans of each sentence
SPANS = [[(0, 2), (5, 9)], [(3, 4)], [(1, 7)], [(0, 1), (10, 14), (20, 29), (27, 30)]]


def sentences(copies: int) -> tuple[Ragged, Ragged, Ragged]:
    rows = [list(range(length)) for length in LENGTHS] * copies
    return (
        Ragged.from_rows(rows),
        Ragged.from_rows([[a for a, _ in spans] for spans in SPANS] * copies),
        Ragged.from_rows([[b for _, b in spans] for spans in SPANS] * copies),
    )


def masked(scheme, copies: int = 1, seed: int = 0, epoch: int = 0, max_masks: int = 10) -> list[tuple[int, ...]]:
    text, starts, ends = sentences(copies)
    chosen = choose_masks(scheme, text, starts, ends, example_keys(seed, epoch, np.arange(len(text))), max_masks)
    return [tuple(np.flatnonzero(chosen[a:b])) for a, b in zip(text.offsets, text.offsets[1:], strict=False)]


def test_uniform__equals_splitmix64_written_in_plain_integers() -> None:
    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    def step(x: int, count: int) -> int:
        return mix((x + (count + 1) * 0x9E3779B97F4A7C15) % 2**64)

    expected = [(step(step(step(step(0, 7), 3), i), 5) >> 11) / 2**53 for i in (0, 1, 10**9)]
    assert uniform(example_keys(7, 3, np.array([0, 1, 10**9])), 5).tolist() == expected


def test_salient_spans__draw_every_usable_span_equally_often() -> None:
    drawn = masked(SalientSpans(), copies=3_000)
    for sentence, spans in enumerate(SPANS):
        counts = Counter(drawn[sentence::4])
        assert set(counts) == {tuple(range(a, b)) for a, b in spans}
        expected = 3_000 / len(spans)
        assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_salient_spans__leave_out_those_longer_than_the_most_masks() -> None:
    assert set(masked(SalientSpans(), copies=200, max_masks=6)[3::4]) == {(0,), (10, 11, 12, 13), (27, 28, 29)}


@pytest.mark.parametrize("scheme", [UniformTokens(), RandomSpans()])
def test_schemes__mask_as_many_pieces_as_the_salient_draw_by_default(scheme) -> None:
    budget = [len(row) for row in masked(SalientSpans(), copies=500)]
    assert [len(row) for row in masked(scheme, copies=500)] == budget


def test_uniform_tokens__mask_each_piece_equally_often() -> None:
    counts = Counter(piece for row in masked(UniformTokens(rate=0.15), copies=4_000)[1::4] for piece in row)
    expected = 4_000 * 3 / 20
    assert set(counts) == set(range(20))
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_rates__are_the_papers_where_given() -> None:
    assert {len(row) for row in masked(UniformTokens(rate=0.15), copies=50)[3::4]} == {4}
    assert {len(row) for row in masked(RandomSpans(rate=0.15), copies=50)[1::4]} == {3}
    assert {len(row) for row in masked(UniformTokens(rate=0.9), copies=50)[3::4]} == {10}, "cut to the most masks"


def test_random_spans__have_spanberts_lengths() -> None:
    rows = Ragged.from_rows([list(range(400))] * 800)
    spans = Ragged.from_rows([[0]] * 800), Ragged.from_rows([[1]] * 800)
    keys = example_keys(0, 0, np.arange(800))
    chosen = choose_masks(RandomSpans(rate=0.0026), rows, *spans, keys, 400)  # budget 1: cut to one piece
    assert chosen.sum() == 800
    chosen = choose_masks(RandomSpans(rate=0.025), rows, *spans, keys, 10).reshape(800, 400)  # budget 10
    first = np.array([np.diff(np.flatnonzero(np.diff(np.concatenate([[0], row, [0]]))))[::2].max() for row in chosen])
    assert chosen.sum(1).tolist() == [10] * 800
    p = 0.2 * 0.8 ** np.arange(10) / (1 - 0.8**10)
    # a run of ten comes from a first span of ten, or (rarely) from neighbours that touch
    assert p[9] * 0.5 < np.mean(first == 10) < p[9] * 3


@pytest.mark.parametrize("scheme", [SalientSpans(), UniformTokens(), RandomSpans()])
def test_schemes__depend_on_example_and_epoch_only(scheme) -> None:
    text, starts, ends = sentences(20)
    keys = example_keys(1, 2, np.arange(80))
    whole = choose_masks(scheme, text, starts, ends, keys, 10)
    rows = np.array([70, 3, 41])
    alone = choose_masks(scheme, text.take(rows), starts.take(rows), ends.take(rows), keys[rows], 10)
    assert alone.tolist() == np.concatenate([whole[text.offsets[r] : text.offsets[r + 1]] for r in rows]).tolist()
    assert masked(scheme, copies=20, epoch=0) != masked(scheme, copies=20, epoch=1)
    assert masked(scheme, copies=20, seed=0) != masked(scheme, copies=20, seed=1)


def test_choose_masks__refuses_a_sentence_without_a_span() -> None:
    text = Ragged.from_rows([[1, 2, 3]])
    empty = Ragged.from_rows([[]])
    with pytest.raises(ValueError, match="eligible"):
        choose_masks(SalientSpans(), text, empty, empty, example_keys(0, 0, np.arange(1)), 10)
