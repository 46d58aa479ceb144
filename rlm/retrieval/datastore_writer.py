"""Writes datastores: resumed in the middle, by one process, or by several of which each has whole shards."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlm.data.tokens import token_dtype
from rlm.retrieval.neighbours import replace_json

KeyType = Literal["float16", "float32"]
SHARD = 1 << 18
"""Keys in a shard; all but the last are full."""
SIDECAR = "datastore.json"
"""What is said of a finished datastore."""


def shard_paths(folder: Path, shard: int) -> dict[str, Path]:
    """Files of a shard: `keys` and `values`."""
    return {name: folder / f"{name}-{shard:05d}.bin" for name in ("keys", "values")}


class DatastoreWriter:
    """Writes what `Datastore.open` reads; one that was killed goes on where it was.

    Args:
        folder: to write to.
        dim: width of the keys.
        vocab_size: of the model; it gives the type of the values.
        made_of: what the datastore is of, by role (`text`, `model`, `key`, ...); kept beside it.
        dtype: of the keys; float16 halves them.
        shard: keys in a shard.
        share: numbers of the keys that it writes (`shares`), None: all; what is given beyond them is passed over, for
            others write it to the same folder at the same time, and `join_shares` makes one datastore of all.
    """

    def __init__(
        self,
        folder: Path,
        dim: int,
        vocab_size: int,
        made_of: Mapping[str, str],
        dtype: KeyType = "float16",
        shard: int = SHARD,
        share: range | None = None,
    ) -> None:
        self.folder, self.dtypes = folder, {"keys": np.dtype(dtype), "values": token_dtype(vocab_size)}
        self._described = {"dim": dim, "vocab_size": vocab_size, "made_of": dict(made_of), "dtype": dtype}
        self._dim, self._vocab_size, self._shard = dim, vocab_size, shard
        # files carry the number of their shard among all
        self.first, self.stop = (0, sys.maxsize) if share is None else (share.start, share.stop)
        """Numbers of the first key that it writes, and of the first after the last."""
        self._before = self.first // shard
        self._sidecar = folder / (SIDECAR if share is None else _of_share(self._before))
        self._mark = self._sidecar.with_stem(f"{self._sidecar.stem}-progress")
        folder.mkdir(parents=True, exist_ok=True)
        self._checksums: list[dict[str, int]] = []
        self.count = self.first
        """Number of the key that is written next; what a call of `append` repeats before it is passed over."""
        self._resume()

    def _resume(self) -> None:
        try:
            # a finished one is told by the same facts
            told = next(path for path in (self._mark, self._sidecar) if path.exists())
            mark = json.loads(told.read_text(encoding="utf-8"))
            if {name: mark[name] for name in self._described} != self._described or mark["shard"] != self._shard:
                return
            count, checksums = int(mark["count"]), mark["checksums"]
            if count > self.stop:
                return
            for number, expected in enumerate(checksums, self._before):
                rows = min(self._shard, count - number * self._shard)
                for name, path in shard_paths(self.folder, number).items():
                    size = rows * self._row_bytes(name)
                    if path.stat().st_size > size:  # written, but not told
                        os.truncate(path, size)
                    if checksum_of(path) != (size, expected[name]):
                        return
            self.count, self._checksums = count, checksums
        except (OSError, ValueError, KeyError, StopIteration):
            pass  # nothing was written, or not by a writer with these arguments

    def _row_bytes(self, name: str) -> int:
        return self.dtypes[name].itemsize * (self._dim if name == "keys" else 1)

    def append(self, keys: NDArray | Tensor, values: NDArray | Tensor, first: int | None = None) -> None:
        """Write some keys with their values.

        Args:
            keys: [count, dim].
            values: the tokens that follow, [count].
            first: number of the first of these in the datastore; what is written already is passed over, so that a
                writer that was killed may be given everything again. None: they follow what is written.

        Raises:
            ValueError: another width, numbers that the keys' type cannot hold, tokens beyond the vocabulary, or a gap.
        """
        keys, values = (each.numpy(force=True) if isinstance(each, Tensor) else each for each in (keys, values))
        if keys.shape != (len(values), self._dim):
            raise ValueError(f"keys are {keys.shape} for {len(values)} values; the datastore's keys have {self._dim}")
        first = self.count if first is None else first
        if first > self.count < self.stop:
            raise ValueError(f"keys from number {first} on, but only {self.count} are written; none may be left out")
        new = slice(self.count - first, max(0, self.stop - first))
        keys, values = keys[new], values[new]
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < self._vocab_size:
            raise ValueError(
                f"values from {values.min()} to {values.max()} for a vocabulary of {self._vocab_size}: "
                "write the text with the model's own tokenizer"
            )
        with np.errstate(over="ignore"):
            keys = np.ascontiguousarray(keys, self.dtypes["keys"])
        if not np.isfinite(keys).all():
            too_large = keys.dtype == np.float16 and not np.isnan(keys).any()
            raise ValueError(
                f"keys that are not finite in {self.dtypes['keys']}: "
                + (
                    "set `dtype: float32`"
                    if too_large
                    else "the model's states are NaN or infinity; train one that is trained here anew with a lower"
                    " learning rate, and name another checkpoint in place of one"
                )
            )
        values = np.ascontiguousarray(values, self.dtypes["values"])
        while len(values):
            within = self.count % self._shard
            some = min(self._shard - within, len(values))
            self._write(self.count // self._shard, within, {"keys": keys[:some], "values": values[:some]})
            self.count += some
            keys, values = keys[some:], values[some:]
        replace_json(self._mark, self._state())

    def _write(self, shard: int, within: int, rows: dict[str, NDArray]) -> None:
        number = shard - self._before
        if not within:
            self._checksums[number:] = [dict.fromkeys(rows, 0)]
        for name, path in shard_paths(self.folder, shard).items():
            content = rows[name].tobytes()
            with path.open("r+b" if within else "wb") as file:
                file.seek(within * self._row_bytes(name))
                file.write(content)
            self._checksums[number][name] = crc32(content, self._checksums[number][name])

    def _state(self) -> dict[str, Any]:
        return {**self._described, "shard": self._shard, "count": self.count, "checksums": self._checksums}

    def close(self) -> None:
        """Finish; nothing can be opened before.

        Raises:
            ValueError: nothing was written.
        """
        if not self._checksums:
            raise ValueError(f"{self.folder}: a datastore without keys; its text has no token that could be predicted")
        for number in range(len(self._checksums)):
            for path in shard_paths(self.folder, self._before + number).values():
                with path.open("r+b") as file:
                    os.fsync(file.fileno())
        replace_json(self._sidecar, self._state())
        self._mark.unlink(missing_ok=True)


def _of_share(shard: int) -> str:
    return f"share-{shard}.json"


def shares(total: int, writers: int, shard: int = SHARD) -> list[range]:
    """Numbers of the keys that each of at most so many writers writes: whole shards, but at the end."""
    shards = max(1, -(-total // shard))
    writers = min(writers, shards)
    bounds = [min(total, shards * number // writers * shard) for number in range(writers + 1)]
    return [range(low, high) for low, high in pairwise(bounds)]


def join_shares(folder: Path, written: Sequence[range], shard: int = SHARD) -> None:
    """Make one datastore of what the writers of all shares wrote and closed."""
    parts = [json.loads((folder / _of_share(share.start // shard)).read_text(encoding="utf-8")) for share in written]
    checksums = [checksum for part in parts for checksum in part["checksums"]]
    replace_json(folder / SIDECAR, {**parts[-1], "checksums": checksums})


def checksum_of(path: Path) -> tuple[int, int]:
    """Bytes of a file, and their CRC-32."""
    size = found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            size, found = size + len(block), crc32(block, found)
    return size, found
