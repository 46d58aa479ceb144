"""Ragged arrays and batches against lists."""

import json

import numpy as np
import pytest

from rlm.data.tokens import ArrayWriter, Ragged, RaggedWriter, SpecialTokens, join, token_dtype

ROWS = [[5, 6, 7], [], [8], [9, 10, 11, 12], []]
SPECIAL = SpecialTokens(cls=1, sep=2, pad=0, mask=3)


def lists(ragged):
    return [ragged[row].tolist() for row in range(len(ragged))]


@pytest.mark.parametrize(
    ("vocabulary", "expected"), [(256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "uint32")]
)
def test_token_dtype__holds_the_last_id_and_no_more(vocabulary, expected):
    assert token_dtype(vocabulary) == expected


def test_from_rows__keeps_rows_and_dtype():
    ragged = Ragged.from_rows(ROWS, np.uint16)
    assert lists(ragged) == ROWS and ragged.values.dtype == np.uint16
    assert ragged.lengths.tolist() == [3, 0, 1, 4, 0]
    assert lists(Ragged.from_rows([])) == []


@pytest.mark.parametrize("limit", [None, 0, 2, 9])
def test_take__cuts_and_repeats_rows_in_their_order(limit):
    rows = [3, 1, 3, 0, 4]
    taken = Ragged.from_rows(ROWS).take(np.array(rows), limit)
    assert lists(taken) == [ROWS[row][:limit] for row in rows]


def test_take__gives_nothing_for_no_rows():
    assert lists(Ragged.from_rows(ROWS).take(np.zeros(0, np.int64))) == []


def test_open__gives_what_was_saved(tmp_path):
    Ragged.from_rows(ROWS, np.uint8).save(tmp_path, "tokens")
    opened = Ragged.open(tmp_path, "tokens")
    assert lists(opened) == ROWS and opened.values.dtype == np.uint8
    assert isinstance(opened.values, np.memmap)


@pytest.mark.parametrize("change", [{"rows": 4}, {"values": 7}, {"dtype": "int32"}])
def test_open__refuses_arrays_that_are_not_what_the_sidecar_says(change, tmp_path):
    Ragged.from_rows(ROWS, np.uint8).save(tmp_path, "tokens")
    sidecar = tmp_path / "tokens.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | change))
    with pytest.raises(ValueError, match=r"tokens: damaged .*delete the folder"):
        Ragged.open(tmp_path, "tokens")


def test_open__refuses_offsets_that_end_elsewhere(tmp_path):
    Ragged.from_rows(ROWS, np.uint8).save(tmp_path, "tokens")
    offsets = np.load(tmp_path / "tokens.offsets.npy")
    offsets[-1] += 1
    np.save(tmp_path / "tokens.offsets.npy", offsets)
    with pytest.raises(ValueError, match="damaged"):
        Ragged.open(tmp_path, "tokens")


def test_array_writer__appends(tmp_path):
    writer = ArrayWriter(tmp_path / "identity.npy", np.uint64)
    parts = [np.arange(3), np.zeros(0), np.array([2**64 - 1], np.uint64), np.arange(100_000)]
    for part in parts:
        writer.append(part)
    writer.close()
    read = np.load(tmp_path / "identity.npy", mmap_mode="r")
    assert read.dtype == np.uint64 and writer.count == len(read) == 100_004
    assert read.tolist() == [0, 1, 2, 2**64 - 1, *range(100_000)]


def test_ragged_writer__gives_what_one_save_would(tmp_path):
    writer = RaggedWriter(tmp_path, "tokens", np.uint16)
    for chunk in (ROWS[:2], [], ROWS[2:], [[300]]):
        writer.append(chunk)
    writer.close()
    assert lists(Ragged.open(tmp_path, "tokens")) == [*ROWS, [300]]


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_join__lays_out_parts_between_separators(count, multiple):
    parts = [ROWS, [[20], [21, 22], [], [23], []], [[30]] * 5][:count]
    batch = join([Ragged.from_rows(part) for part in parts], SPECIAL, multiple)
    assert batch.ids.shape[1] % multiple == 0
    longest = max(1 + sum(len(part[row]) + 1 for part in parts) for row in range(5))
    assert longest <= batch.ids.shape[1] < longest + multiple
    for row in range(5):
        expected, segments, starts = [1], [0], []
        for place, part in enumerate(parts):
            starts.append(len(expected))
            expected += [*part[row], 2]
            segments += [int(place > 0)] * (len(part[row]) + 1)
        padding = batch.ids.shape[1] - len(expected)
        assert batch.ids[row].tolist() == expected + [0] * padding
        assert batch.segments[row].tolist() == segments + [0] * padding
        assert batch.mask[row].tolist() == [True] * len(expected) + [False] * padding
        assert batch.starts[row].tolist() == starts
        assert batch.lengths[row].tolist() == [len(part[row]) for part in parts]
