"""Datastores against the arrays that were written; killed writers; what may not be opened."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from rlm.retrieval.datastore import Datastore
from rlm.retrieval.datastore_writer import DatastoreWriter, join_shares, shares

DIM, COUNT, SHARD = 6, 50, 16
MADE_OF = {"text": "documents-1", "model": "lm-1", "key": "ffn_input"}


def arrays(vocab_size: int = 400, count: int = COUNT, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, vocab_size, count)
    values[0] = vocab_size - 1
    return rng.standard_normal((count, DIM)).astype(np.float32), values


def write(folder: Path, vocab_size: int = 400, steps: int = 7, seed: int = 0, **options) -> Path:
    keys, values = arrays(vocab_size, seed=seed)
    made_of = {**MADE_OF, **options.pop("made_of", {})}
    writer = DatastoreWriter(folder, DIM, vocab_size, made_of, shard=SHARD, **options)
    for low in range(0, COUNT, steps):
        writer.append(keys[low : low + steps], values[low : low + steps])
    writer.close()
    return folder


def everything(store: Datastore) -> tuple[np.ndarray, np.ndarray]:
    ids = np.arange(len(store))
    return store.take(ids), store.take_values(ids)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_open__gives_what_was_written(tmp_path: Path, dtype) -> None:
    store = Datastore.open(write(tmp_path / "a", dtype=dtype), dim=DIM, **MADE_OF)
    keys, values = arrays()
    ids = np.random.default_rng(1).integers(0, COUNT, (5, 8))
    assert len(store) == COUNT and store.dim == DIM and len(store.shards) == 4
    assert store.take(ids).dtype == dtype
    np.testing.assert_array_equal(store.take(ids), keys.astype(dtype)[ids])
    np.testing.assert_array_equal(store.take_values(ids), values[ids])


def test_slices__give_every_key_once_in_order(tmp_path: Path) -> None:
    store = Datastore.open(write(tmp_path / "a", dtype="float32"))
    for start, stop in ((0, None), (5, 40), (20, 21), (16, 32)):
        pieces = list(store.slices(5, start, stop))
        wanted = np.arange(COUNT)[start:stop]
        np.testing.assert_array_equal(np.concatenate([first + np.arange(len(keys)) for first, keys in pieces]), wanted)
        np.testing.assert_array_equal(np.concatenate([keys for _, keys in pieces]), arrays()[0][wanted])
        assert max(len(keys) for _, keys in pieces) <= 5


@pytest.mark.parametrize("vocab_size", [200, 32_768, 50_257, 65_537, 256_000])
def test_values__survive_whatever_the_vocabulary(tmp_path: Path, vocab_size: int) -> None:
    store = Datastore.open(write(tmp_path / "a", vocab_size=vocab_size))
    np.testing.assert_array_equal(everything(store)[1], arrays(vocab_size)[1])
    assert store.take_values(np.array([0])) == vocab_size - 1


def test_append__does_not_depend_on_how_much_at_a_time(tmp_path: Path) -> None:
    folders = [write(tmp_path / str(steps), steps=steps) for steps in (1, 16, 50)]
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1] == contents[2]
    assert set(contents[0]) >= {"datastore.json", "keys-00003.bin", "values-00003.bin"}


def test_append__takes_tensors_of_lower_precision(tmp_path: Path) -> None:
    keys, values = torch.ones(3, DIM, dtype=torch.bfloat16) / 3, torch.tensor([1, 2, 3])
    writer = DatastoreWriter(tmp_path, DIM, 400, MADE_OF, "float32")
    writer.append(keys.float(), values)
    writer.close()
    np.testing.assert_array_equal(everything(Datastore.open(tmp_path))[0], keys.float().numpy())


def test_append__passes_over_what_is_written(tmp_path: Path) -> None:
    keys, values = arrays()
    writer = DatastoreWriter(tmp_path / "again", DIM, 400, MADE_OF, shard=SHARD)
    for low, high in ((0, 20), (10, 30), (5, 15), (30, 50)):
        writer.append(keys[low:high], values[low:high], first=low)
    with pytest.raises(ValueError, match="from number 51 on, but only 50 are written"):
        writer.append(keys[:1], values[:1], first=51)
    writer.close()
    np.testing.assert_array_equal(everything(Datastore.open(tmp_path / "again"))[1], values)


def test_writer__when_killed_goes_on(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from rlm.retrieval.datastore_writer import DatastoreWriter
        from tests.retrieval.test_datastore import COUNT, DIM, MADE_OF, SHARD, arrays
        keys, values = arrays()
        writer = DatastoreWriter(Path(sys.argv[1]), DIM, 400, MADE_OF, shard=SHARD)
        print(writer.count, flush=True)
        for low in range(0, COUNT, 3):
            writer.append(keys[low:low + 3], values[low:low + 3], first=low)
            if low == int(sys.argv[2]):
                (Path(sys.argv[1]) / "keys-00001.bin").open("ab").write(b"cut off")
                os.kill(os.getpid(), signal.SIGKILL)
        writer.close()
        """
    )
    counts = []
    for kill_at in ("18", "39", "-1"):
        arguments = [sys.executable, "-c", program, str(tmp_path / "killed"), kill_at]
        done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."})
        assert done.returncode == (0 if kill_at == "-1" else -signal.SIGKILL), done.stderr
        counts.append(int(done.stdout))
    assert counts == [0, 21, 42]
    undisturbed = write(tmp_path / "undisturbed")
    assert {path.name: path.read_bytes() for path in (tmp_path / "killed").iterdir()} == {
        path.name: path.read_bytes() for path in undisturbed.iterdir()
    }


@pytest.mark.parametrize("writers", [1, 2, 3, 9])
def test_shares__of_several_writers_are_one_datastore(tmp_path: Path, writers: int) -> None:
    (keys, values), whole = arrays(), write(tmp_path / "whole")
    written = shares(COUNT, writers, SHARD)
    assert [key for share in written for key in share] == list(range(COUNT)) and len(written) == min(writers, 4)
    for share in reversed(written):
        # each is given all, in steps that are not those of the shards
        writer = DatastoreWriter(tmp_path / "shared", DIM, 400, MADE_OF, shard=SHARD, share=share)
        for low in range(0, COUNT, 7):
            writer.append(keys[low : low + 7], values[low : low + 7], first=low)
        assert (writer.first, writer.count) == (share.start, share.stop)
        writer.close()
    join_shares(tmp_path / "shared", written, SHARD)
    for path in whole.iterdir():
        assert path.read_bytes() == (tmp_path / "shared" / path.name).read_bytes(), path.name
    Datastore.open(tmp_path / "shared", **MADE_OF)


def test_shares__of_a_writer_that_was_killed_go_on(tmp_path: Path) -> None:
    keys, values = arrays()
    share = shares(COUNT, 2, SHARD)[1]

    def writer() -> DatastoreWriter:
        return DatastoreWriter(tmp_path, DIM, 400, MADE_OF, shard=SHARD, share=share)

    writer().append(keys[30:40], values[30:40], first=30)
    assert (share, writer().count) == (range(32, 50), 40)
    again = writer()
    again.append(keys, values, first=0)
    again.close()
    assert writer().count == 50
    (tmp_path / "keys-00003.bin").write_bytes(b"damaged")
    assert writer().count == 32
    # one writer's share is not taken for another's
    assert DatastoreWriter(tmp_path, DIM, 400, MADE_OF, shard=SHARD, share=range(32, 48)).count == 32


def test_writer__of_a_finished_datastore_has_nothing_to_do(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    writer = DatastoreWriter(folder, DIM, 400, MADE_OF, shard=SHARD)
    assert writer.count == COUNT
    writer.close()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("spoil", ["other model", "other shard", "damaged", "shorter"])
def test_writer__begins_anew_when_what_is_there_is_of_no_use(tmp_path: Path, spoil: str) -> None:
    keys, values = arrays()
    DatastoreWriter(tmp_path, DIM, 400, MADE_OF, shard=SHARD).append(keys[:30], values[:30])
    made_of = {**MADE_OF, "model": "lm-2"} if spoil == "other model" else MADE_OF
    path = tmp_path / "keys-00001.bin"
    if spoil == "damaged":
        path.write_bytes(b"x" + path.read_bytes()[1:])
    if spoil == "shorter":
        path.write_bytes(path.read_bytes()[:-1])
    assert DatastoreWriter(tmp_path, DIM, 400, made_of, shard=SHARD + (spoil == "other shard")).count == 0
    assert spoil in ("damaged", "shorter") or DatastoreWriter(tmp_path, DIM, 400, MADE_OF, shard=SHARD).count == 30


def test_joined__is_one_after_the_other(tmp_path: Path) -> None:
    parts = [Datastore.open(write(tmp_path / str(seed), seed=seed)) for seed in (0, 1)]
    both = Datastore.joined(parts)
    keys, values = (np.concatenate(each) for each in zip(*(everything(part) for part in parts), strict=True))
    assert len(both) == 2 * COUNT
    np.testing.assert_array_equal(everything(both)[0], keys)
    np.testing.assert_array_equal(everything(both)[1], values)
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in both.slices(7)]), keys)
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in both.slices(7, 40, 60)]), keys[40:60])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"made_of": {"model": "lm-2"}}, "different model: lm-1 and lm-2"),
        ({"made_of": {"key": "output"}}, "different key: ffn_input and output"),
        ({"vocab_size": 401}, "different vocabulary: 400 and 401"),
    ],
)
def test_joined__when_keys_cannot_be_compared(tmp_path: Path, options: dict, message: str) -> None:
    parts = [Datastore.open(write(tmp_path / "a")), Datastore.open(write(tmp_path / "b", **options))]
    with pytest.raises(ValueError, match=message):
        Datastore.joined(parts)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"model": "lm-2"}, "another model .model: written with lm-1, read with lm-2"),
        ({"key": "output"}, "another key .key: written with ffn_input, read with output"),
        ({"dim": 7}, "another width .width: written with 6, read with 7"),
        ({"dim": 7, "text": "t"}, "another text, width"),
    ],
)
def test_open__when_it_is_of_something_else(tmp_path: Path, expected: dict, message: str) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=message):
        Datastore.open(tmp_path, **expected)


def test_open__when_a_file_is_damaged(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "keys-00002.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r"keys-00002.bin: damaged \(187 bytes, 192 were written\)"):
        Datastore.open(tmp_path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"keys-00002.bin: damaged \(another checksum\)"):
        Datastore.open(tmp_path)
    assert len(Datastore.open(tmp_path, whole=False)) == COUNT
    path.unlink()
    with pytest.raises(ValueError, match=r"keys-00002.bin: damaged \(missing\)"):
        Datastore.open(tmp_path)


def test_open__when_unfinished(tmp_path: Path) -> None:
    keys, values = arrays()
    DatastoreWriter(tmp_path, DIM, 400, MADE_OF).append(keys, values)
    with pytest.raises(ValueError, match="no datastore, or an unfinished one"):
        Datastore.open(tmp_path)
    (tmp_path / "datastore.json").write_text(json.dumps({"dim": DIM}))
    with pytest.raises(ValueError, match="no datastore"):
        Datastore.open(tmp_path)


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        (np.zeros((2, 7)), np.zeros(2, int), "have 6"),
        (np.zeros((2, 6)), np.zeros(3, int), "for 3 values"),
        (np.full((1, 6), 70_000.0), np.zeros(1, int), "not finite in float16: set `dtype: float32`"),
        (np.full((1, 6), np.nan), np.zeros(1, int), "not finite in float16: the model's states are NaN or infinity"),
        (np.zeros((1, 6)), np.array([400]), "400 for a vocabulary of 400"),
        (np.zeros((1, 6)), np.array([-1]), "from -1"),
    ],
)
def test_append__refuses_what_it_could_not_keep(tmp_path: Path, keys, values, message: str) -> None:
    writer = DatastoreWriter(tmp_path, DIM, 400, MADE_OF)
    with pytest.raises(ValueError, match=message):
        writer.append(keys, values)
    assert writer.count == 0


def test_append__does_not_advise_what_was_done(tmp_path: Path) -> None:
    writer = DatastoreWriter(tmp_path, DIM, 400, MADE_OF, "float32")
    with pytest.raises(ValueError, match="not finite in float32: the model's states are NaN or infinity"):
        writer.append(np.full((1, 6), np.inf), np.zeros(1, int))


def test_close__when_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without keys"):
        DatastoreWriter(tmp_path, DIM, 400, MADE_OF).close()
