"""Longest common runs against loops over every pair of places, and against difflib."""

from difflib import SequenceMatcher

import numpy as np
import pytest

from rlm.metrics.leakage import longest_common_run

PAD = 0


def padded(rows: list[list[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    mask = np.array([[place < len(row) for place in range(width)] for row in rows])
    return np.array([row + [PAD] * (width - len(row)) for row in rows]), mask


def drawn(seed: int, chunks: int = 40, m: int = 9, k: int = 3, r: int = 14, vocabulary: int = 3):
    """Chunks and their neighbours of any lengths, none too; the padding's id is a token too."""
    rng = np.random.default_rng(seed)

    def row(longest: int) -> list[int]:
        return rng.integers(PAD, vocabulary, rng.integers(0, longest + 1)).tolist()

    return [row(m) for _ in range(chunks)], [[row(r) for _ in range(k)] for _ in range(chunks)]


def measured(own: list[list[int]], found: list[list[list[int]]], m: int = 9, r: int = 14) -> list[int]:
    tokens, mask = padded(own, m)
    flat, flat_mask = padded([row for rows in found for row in rows], r)
    shape = (len(own), -1, r)
    return longest_common_run(tokens, mask, flat.reshape(shape), flat_mask.reshape(shape)).tolist()


def by_loop(own: list[int], found: list[list[int]]) -> int:
    longest = 0
    for other in found:
        for i in range(len(own)):
            for j in range(len(other)):
                length = 0
                while i + length < len(own) and j + length < len(other) and own[i + length] == other[j + length]:
                    length += 1
                longest = max(longest, length)
    return longest


@pytest.mark.parametrize("seed", range(4))
def test_longest_common_run__is_that_of_a_loop_over_all_pairs(seed: int) -> None:
    own, found = drawn(seed, vocabulary=2 + 2 * seed)
    expected = [by_loop(*pair) for pair in zip(own, found, strict=True)]
    assert measured(own, found) == expected
    assert len(set(expected)) > 3, "runs of many lengths"


def test_longest_common_run__is_difflib_s_longest_match() -> None:
    own, found = drawn(9, chunks=100, m=30, r=60, vocabulary=8)
    matches = [
        max(SequenceMatcher(None, chunk, row, autojunk=False).find_longest_match().size for row in rows)
        for chunk, rows in zip(own, found, strict=True)
    ]
    assert measured(own, found, 30, 60) == matches


def test_longest_common_run__of_a_whole_chunk_is_its_length() -> None:
    chunk = list(range(300))  # longer than one byte counts
    assert measured([chunk], [[[7], [*range(500, 600), *chunk, 1]]], 300, 500) == [300]


def test_longest_common_run__padding_matches_nothing() -> None:
    assert measured([[PAD, PAD], []], [[[]], [[]]]) == [0, 0], "a token like the padding, and padding alone"
    assert measured([[1, 2], [1, 2]], [[[2]], [[1, 2, PAD]]]) == [1, 2]


def test_longest_common_run__does_not_go_on_from_one_neighbour_to_the_next() -> None:
    assert measured([[1, 2, 3, 4]], [[[1, 2], [3, 4]]], r=2) == [2]


@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
def test_longest_common_run__of_any_integers(dtype: type) -> None:
    tokens, mask = np.array([[65535, 3]], dtype), np.array([[True, False]])
    assert longest_common_run(tokens, mask, tokens[:, None], mask[:, None]).tolist() == [1]
