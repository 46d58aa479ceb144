"""Datastores of kNN-LM and kNN-MT: what a model knows at each token of a text (key), and the token that follows.

Keys and values lie in shards of raw files that are memory-mapped: a hundred million keys need no memory but for what is
read. A datastore is appended to by joining it with another; the ids of the first stay as they are.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from mmap import MADV_DONTNEED
from pathlib import Path
from typing import Any, Literal, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlm.data.tokens import token_dtype
from rlm.retrieval.neighbours import replace_json

KeyType = Literal["float16", "float32"]
SHARD = 1 << 18
"""Keys in a shard; all but the last are full."""
ROWS = 1 << 16
"""Keys read at a time."""
RESIDENT = 1 << 30
"""Bytes of a map that may stay resident; of a larger one, what was read is let go of."""
_MARK, _SIDECAR = "progress.json", "datastore.json"


def _paths(folder: Path, shard: int) -> dict[str, Path]:
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
    """

    def __init__(
        self,
        folder: Path,
        dim: int,
        vocab_size: int,
        made_of: Mapping[str, str],
        dtype: KeyType = "float16",
        shard: int = SHARD,
    ) -> None:
        self.folder, self.dtypes = folder, {"keys": np.dtype(dtype), "values": token_dtype(vocab_size)}
        self._described = {"dim": dim, "vocab_size": vocab_size, "made_of": dict(made_of), "dtype": dtype}
        self._dim, self._vocab_size, self._shard = dim, vocab_size, shard
        folder.mkdir(parents=True, exist_ok=True)
        self._checksums: list[dict[str, int]] = []
        self.count = 0
        """Keys written; what a call of `append` repeats of them is passed over."""
        self._resume()

    def _resume(self) -> None:
        try:
            # a finished one is told by the same facts
            told = next(path for name in (_MARK, _SIDECAR) if (path := self.folder / name).exists())
            mark = json.loads(told.read_text())
            if {name: mark[name] for name in self._described} != self._described or mark["shard"] != self._shard:
                return
            count, checksums = int(mark["count"]), mark["checksums"]
            for number, expected in enumerate(checksums):
                rows = min(self._shard, count - number * self._shard)
                for name, path in _paths(self.folder, number).items():
                    size = rows * self._row_bytes(name)
                    if path.stat().st_size > size:  # written, but not told
                        os.truncate(path, size)
                    if _checksum(path) != (size, expected[name]):
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
        if first > self.count:
            raise ValueError(f"keys from number {first} on, but only {self.count} are written; none may be left out")
        keys, values = keys[self.count - first :], values[self.count - first :]
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < self._vocab_size:
            raise ValueError(
                f"values from {values.min()} to {values.max()} for a vocabulary of {self._vocab_size}: "
                "write the text with the model's own tokenizer"
            )
        with np.errstate(over="ignore"):
            keys = np.ascontiguousarray(keys, self.dtypes["keys"])
        if not np.isfinite(keys).all():
            raise ValueError(
                f"keys that are not finite in {self.dtypes['keys']}: set `dtype: float32`, or did the model's training "
                "diverge?"
            )
        values = np.ascontiguousarray(values, self.dtypes["values"])
        while len(values):
            within = self.count % self._shard
            some = min(self._shard - within, len(values))
            self._write(self.count // self._shard, within, {"keys": keys[:some], "values": values[:some]})
            self.count += some
            keys, values = keys[some:], values[some:]
        replace_json(self.folder / _MARK, self._state())

    def _write(self, shard: int, within: int, rows: dict[str, NDArray]) -> None:
        if not within:
            self._checksums[shard:] = [dict.fromkeys(rows, 0)]
        for name, path in _paths(self.folder, shard).items():
            content = rows[name].tobytes()
            with path.open("r+b" if within else "wb") as file:
                file.seek(within * self._row_bytes(name))
                file.write(content)
            self._checksums[shard][name] = crc32(content, self._checksums[shard][name])

    def _state(self) -> dict[str, Any]:
        return {**self._described, "shard": self._shard, "count": self.count, "checksums": self._checksums}

    def close(self) -> None:
        """Finish; nothing can be opened before.

        Raises:
            ValueError: nothing was written.
        """
        if not self.count:
            raise ValueError(f"{self.folder}: a datastore without keys; its text has no token that could be predicted")
        for shard in range(len(self._checksums)):
            for path in _paths(self.folder, shard).values():
                with path.open("r+b") as file:
                    os.fsync(file.fileno())
        replace_json(self.folder / _SIDECAR, self._state())
        (self.folder / _MARK).unlink(missing_ok=True)


def _checksum(path: Path) -> tuple[int, int]:
    """Bytes of a file, and their CRC-32."""
    size = found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            size, found = size + len(block), crc32(block, found)
    return size, found


@dataclass(frozen=True, slots=True)
class Shard:
    """A memory-mapped part of a datastore."""

    keys: NDArray
    """[rows, dim]."""
    values: NDArray
    """[rows]."""


class Datastore:
    """Finished datastores, one after the other, memory-mapped.

    Args:
        shards: in their order.
        made_of: what each datastore is of, by role.
        vocab_size: of the model.
    """

    def __init__(self, shards: Sequence[Shard], made_of: Sequence[Mapping[str, str]], vocab_size: int) -> None:
        self.shards, self.made_of, self.vocab_size = list(shards), list(made_of), vocab_size
        self.dim = int(self.shards[0].keys.shape[1])
        self.first = np.cumsum([0, *(len(shard.values) for shard in self.shards)])
        """Number of the first key of each shard, and the number of keys."""

    @classmethod
    def open(cls, folder: Path, whole: bool = True, dim: int | None = None, **made_of: str) -> Self:
        """Map what `DatastoreWriter` wrote.

        Args:
            folder: it wrote to.
            whole: compare checksums, which reads everything; sizes are always compared.
            dim: the width that keys must have.
            made_of: what the datastore has to be of, by role.

        Raises:
            ValueError: a truncated or damaged file (which), or a datastore of something else (what differs).
        """
        try:
            described = json.loads((folder / _SIDECAR).read_text())
            width, vocab_size, count, size = (described[name] for name in ("dim", "vocab_size", "count", "shard"))
            dtypes = {"keys": np.dtype(described["dtype"]), "values": token_dtype(vocab_size)}
            found, checksums = described["made_of"], described["checksums"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder}: no datastore, or an unfinished one ({error}); delete the folder") from error
        wanted = {**made_of, **({} if dim is None else {"width": str(dim)})}
        found_all = {**found, "width": str(width)}
        other = [role for role, name in wanted.items() if found_all.get(role) != name]
        if other:
            listed = "; ".join(
                f"{role}: written with {found_all.get(role)}, read with {wanted[role]}" for role in other
            )
            raise ValueError(f"{folder}: a datastore of another {', '.join(other)} ({listed}); write it again")
        shards = []
        for number, expected in enumerate(checksums):
            rows = min(size, count - number * size)
            shapes = {"keys": (rows, width), "values": (rows,)}
            paths = _paths(folder, number)
            for name, path in paths.items():
                bytes_written = int(np.prod(shapes[name])) * dtypes[name].itemsize
                on_disk = path.stat().st_size if path.exists() else None
                if on_disk != bytes_written:
                    what = "missing" if on_disk is None else f"{on_disk} bytes, {bytes_written} were written"
                    raise ValueError(f"{path}: damaged ({what}); delete {folder} and write it again")
                if whole and _checksum(path)[1] != expected[name]:
                    raise ValueError(f"{path}: damaged (another checksum); delete {folder} and write it again")
            shards.append(
                Shard(*(np.memmap(path, dtypes[name], "c", shape=shapes[name]) for name, path in paths.items()))
            )
        return cls(shards, [found], vocab_size)

    @classmethod
    def joined(cls, parts: Sequence[Self], same: Sequence[str] = ("model", "key")) -> Self:
        """Several datastores as one, in their order: a corpus is added without touching what is there.

        Raises:
            ValueError: keys of another width, vocabulary, or of other roles named in `same`.
        """
        first = parts[0]
        for part in parts[1:]:
            facts = [
                {"width": each.dim, "vocabulary": each.vocab_size, **{role: each.made_of[0].get(role) for role in same}}
                for each in (first, part)
            ]
            for what, expected in facts[0].items():
                if facts[1][what] != expected:
                    raise ValueError(
                        f"datastores of different {what}: {expected} and {facts[1][what]}; their keys cannot be "
                        "compared, write both with one model"
                    )
        shards = [shard for part in parts for shard in part.shards]
        return cls(shards, [facts for part in parts for facts in part.made_of], first.vocab_size)

    def __len__(self) -> int:
        return int(self.first[-1])

    def slices(self, rows: int = ROWS, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, NDArray]]:
        """Keys in their order: the number of the first and [at most rows, dim], each time."""
        stop = len(self) if stop is None else stop
        for shard, first in zip(self.shards, self.first, strict=False):
            for low in range(max(0, start - int(first)), min(len(shard.values), stop - int(first)), rows):
                high = min(low + rows, len(shard.values), stop - int(first))
                yield int(first) + low, shard.keys[low:high]
            _let_go(shard.keys)

    def take(self, ids: NDArray[np.int64]) -> NDArray:
        """Keys by number, [...] to [..., dim]."""
        return self._take("keys", ids)

    def take_values(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Values by number, of the same shape."""
        return self._take("values", ids).astype(np.int64)

    def _take(self, name: str, ids: NDArray[np.int64]) -> NDArray:
        flat = ids.ravel()
        arrays = [getattr(shard, name) for shard in self.shards]
        found = np.empty((len(flat), *arrays[0].shape[1:]), np.result_type(*{array.dtype for array in arrays}))
        # ascending, so that the disk is read in one direction
        order = np.argsort(flat, kind="stable")
        bounds = np.searchsorted(flat[order], self.first)
        large = sum(array.nbytes for array in arrays) > RESIDENT
        for array, first, low, high in zip(arrays, self.first, bounds, bounds[1:], strict=False):
            found[order[low:high]] = array[flat[order[low:high]] - first]
            if large:
                _let_go(array)
        return found.reshape(*ids.shape, *found.shape[1:])


def _let_go(array: Any) -> None:
    """Take the pages that were read out of resident memory; they are read again where they are needed."""
    array._mmap.madvise(MADV_DONTNEED)
