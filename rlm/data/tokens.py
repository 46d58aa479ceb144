"""Token arrays: ragged memory-mapped storage, and batches built by array arithmetic."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import DTypeLike, NDArray


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned integer type that holds every token id."""
    return np.min_scalar_type(vocab_size - 1)


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of unequal length: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: NDArray
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[int]], dtype: DTypeLike = np.int64) -> Self:
        rows = list(rows)
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        values = np.concatenate([np.asarray(row, dtype) for row in rows]) if rows else np.zeros(0, dtype)
        return cls(values.astype(dtype, copy=False), offsets)

    def take(self, rows: NDArray[np.integer], limit: int | None = None) -> Self:
        """The given rows in their order, each cut to `limit` values."""
        starts = self.offsets[rows]
        lengths = self.offsets[np.asarray(rows) + 1] - starts
        if limit is not None:
            lengths = np.minimum(lengths, limit)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return type(self)(np.asarray(self.values[positions]), offsets)

    def save(self, folder: Path, name: str) -> None:
        """Write `name.values.npy`, `name.offsets.npy` and a sidecar with shape and dtype."""
        np.save(folder / f"{name}.values.npy", self.values)
        np.save(folder / f"{name}.offsets.npy", self.offsets)
        sidecar = {"rows": len(self), "values": len(self.values), "dtype": str(self.values.dtype)}
        (folder / f"{name}.json").write_text(json.dumps(sidecar), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path, name: str) -> Self:
        """Memory-map what `save` wrote.

        Raises:
            ValueError: the arrays disagree with their sidecar (a damaged or truncated file).
        """
        try:
            sidecar = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            values = np.load(folder / f"{name}.values.npy", mmap_mode="r")
            offsets = np.load(folder / f"{name}.offsets.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder / name}: damaged ({error}); delete the folder") from error
        found = {"rows": len(offsets) - 1, "values": len(values), "dtype": str(values.dtype)}
        if found != sidecar or offsets[-1] != len(values):
            raise ValueError(f"{folder / name}: damaged ({found} on disk, {sidecar} written); delete the folder")
        return cls(values, offsets)


class ArrayWriter:
    """Appends to a one-dimensional `.npy` file of unknown length, in constant memory."""

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        self._dtype, self.count = np.dtype(dtype), 0
        self._file = path.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        # numpy pads the header so that the first axis can grow in place
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: NDArray) -> None:
        self._file.write(np.ascontiguousarray(values, self._dtype).tobytes())
        self.count += len(values)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()


class RaggedWriter:
    """Writes what `Ragged.open` reads, some rows at a time."""

    def __init__(self, folder: Path, name: str, dtype: DTypeLike) -> None:
        self._sidecar = folder / f"{name}.json"
        self._dtype = np.dtype(dtype)
        self._values = ArrayWriter(folder / f"{name}.values.npy", dtype)
        self._offsets = ArrayWriter(folder / f"{name}.offsets.npy", np.int64)
        self._offsets.append(np.zeros(1, np.int64))

    def append(self, rows: Sequence[Sequence[int]]) -> None:
        chunk = Ragged.from_rows(rows, self._dtype)
        self._offsets.append(chunk.offsets[1:] + self._values.count)
        self._values.append(chunk.values)

    def close(self) -> None:
        self._values.close()
        self._offsets.close()
        rows, values = self._offsets.count - 1, self._values.count
        self._sidecar.write_text(
            json.dumps({"rows": rows, "values": values, "dtype": str(self._dtype)}), encoding="utf-8"
        )


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the special tokens of a BERT-like vocabulary."""

    cls: int
    sep: int
    pad: int
    mask: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows `[CLS] part0 [SEP] part1 [SEP] ...`, padded to the longest row of this batch."""

    ids: NDArray[np.int64]  # [batch, length]
    mask: NDArray[np.bool_]  # [batch, length], True on tokens
    segments: NDArray[np.int64]  # [batch, length], 0 for [CLS] part0 [SEP], 1 after
    starts: NDArray[np.int64]  # [batch, parts], position of each part's first token
    lengths: NDArray[np.int64]  # [batch, parts]


def join(parts: Sequence[Ragged], special: SpecialTokens, multiple: int = 8) -> Batch:
    """Join ragged parts row by row into one padded batch.

    Args:
        parts: each with the same number of rows; cut them first (`Ragged.take(rows, limit)`).
        special: ids of the special tokens.
        multiple: lengths are rounded up to this, which bounds the number of distinct shapes.
    """
    lengths = np.stack([part.lengths for part in parts], axis=1)
    starts = 1 + np.cumsum(lengths + 1, axis=1) - (lengths + 1)
    totals = 1 + (lengths + 1).sum(axis=1)
    rows, width = len(lengths), -(-int(totals.max()) // multiple) * multiple
    ids = np.full((rows, width), special.pad, np.int64)
    ids[:, 0] = special.cls
    index = np.arange(rows)
    for part, start, length in zip(parts, starts.T, lengths.T, strict=True):
        row = np.repeat(index, length)
        column = np.arange(len(row)) + np.repeat(start - part.offsets[:-1], length)
        ids[row, column] = part.values
        ids[index, start + length] = special.sep
    columns = np.arange(width)
    mask = columns < totals[:, None]
    segments = mask & (columns >= (starts[:, 0] + lengths[:, 0] + 1)[:, None])
    return Batch(ids, mask, segments.astype(np.int64), starts, lengths)
