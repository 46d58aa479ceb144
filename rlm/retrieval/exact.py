"""Exact maximum inner product search in torch: a fast scan whose error is bounded, then a re-rank in float64.

Selecting from a million scores costs more than computing them, so no score is sorted that cannot matter. Passages are
scanned in blocks that stay in the cache, and only the maximum of each group of passages is kept, twice over. The k-th
largest of these maxima is a score that k passages reach, so that a passage among the k best scores at least this, less
twice the error of a scanned score. The few passages that may reach it are scored from the embeddings themselves.

The scan is in bfloat16 where that is fast, on a GPU in float16, which is as fast and rounds an eighth as much. With c
the mean embedding, z' = z - c (which changes all scores of a query by the same) and x^, z^ what 16 bits leave of x and
z':

    |x z' - x^ z^| <= |x - x^| max |z'| + |x^| max |z' - z^| + rounding of the sums

by Cauchy-Schwarz, with the norms measured rather than assumed. The ids are therefore those of a search in float64.

float16 has few exponents: embeddings are multiplied by one power of two, and each query by another, which are exact.
"""

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlm.retrieval.bfloat16 import has_fast_bfloat16
from rlm.retrieval.config import ExactIndex, ShardedExact
from rlm.retrieval.index import Embeddings, Index

GROUP, GROUPS = 16, 64
"""At most this many passages in a group, and groups in a group of groups."""
SPREAD = 8
"""Groups of groups for each of the k wanted: with more of them, two of the k best rarely share one."""
QUERIES = 512
"""Searched together."""
BLOCK = {"cpu": 1 << 20, "cuda": 1 << 28}
"""Scores computed at a time: on the CPU, what the cache holds."""
MAXIMA = {"cpu": 1 << 26, "cuda": 1 << 30}
"""Group maxima held at a time."""
CANDIDATES = 1 << 22
"""Re-ranked together: beyond this (passages that are nearly the same), queries are searched in halves."""
REACHED = 1 << 26
"""Group maxima that are looked at one by one, likewise."""
ROWS = 1 << 16
"""Embeddings read, or re-ranked, at a time."""
ALIGNED = {"cpu": 1, "cuda": 8}
"""What is scanned is as wide as a multiple of this: on a GPU, other products take three times as long."""
PADDING = 16
"""Batches are filled up to a multiple of this, because products with few columns take slow paths."""
MAPPED = 1 << 30
"""Bytes of a memory map that may stay resident; of a larger one, what was read is let go of."""
LENGTH = 32.0
"""No embedding, and no query, is longer where it is scanned in float16, whose largest number is 65,504."""
BIASES = 3
"""Numbers of 16 bits that hold one of float32 (in float32, two of them are 0)."""
SLACK = 1.001
"""Of the error bound, for its own rounding."""


class Exact(Index):
    """Every passage is compared; the ids, and their order, are those of a search in float64. One search at a time: it
    uses memory that is kept for the next.

    Args:
        config: `dtype` of the scan; bfloat16 halves its memory (a copy of the embeddings) and is used where the device
            is fast at it, on a GPU float16. float32 scans the embeddings where they are, or with a bias a copy.
        embeddings: [passages, dim]; not copied, and on the CPU they may be a memory map, to which nobody writes.
        device: scans there; candidates are re-ranked where `embeddings` lie.
        bias: float32 [passages], added to every score of a passage, which is then x z + b.

    Raises:
        ValueError: embeddings that are not finite.
    """

    config: ExactIndex | ShardedExact
    ones = 0
    """Numbers of 1 that are scanned after each embedding and its bias: by them a query adds to all of its scores."""

    def __init__(
        self,
        config: ExactIndex | ShardedExact,
        embeddings: Embeddings,
        device: torch.device | str = "cpu",
        bias: Tensor | None = None,
    ) -> None:
        self.config, self.device = config, torch.device(device)
        self.embeddings = torch.as_tensor(embeddings)
        large = isinstance(embeddings, np.memmap) and embeddings.nbytes > MAPPED
        self._map: Any = embeddings if large else None
        # the bias as a sum of three numbers of the scan's type, each multiplied by one
        self._biases = 0 if bias is None else BIASES
        self._positive = True
        low = scanned_type(config, self.device)
        if self.device.type == "cuda":  # else partial sums may be rounded, which no useful bound allows for
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        copied = low != torch.float32 or bias is not None
        aligned = ALIGNED[self.device.type]
        wide = -(-(self.dim + self._biases + self.ones) // aligned) * aligned
        self._scanned = (
            torch.empty(self.size, wide, dtype=low, device=self.device)
            if copied
            else self.embeddings.to(self.device, low)
        )
        self._moved = torch.zeros((), device=self.device)
        """What the scanned embeddings are less than the embeddings: [dim], or 0."""
        if low != torch.float32:
            self._moved = self.embeddings[:: max(1, self.size // ROWS)].float().mean(0).to(self.device)
        largest = 0.0 if bias is None else float(bias.abs().max())
        self._scale = 1.0
        """What they are times."""
        if low == torch.float16:
            longest = float(torch.stack([lengths(rows).max() for _, rows in self._rows()]).max())
            exponents = (math.frexp(length)[1] for length in (longest, math.sqrt(largest)) if length)
            self._scale = LENGTH / 2.0 ** max([-50, *exponents])  # whose square float32 holds
        self._bias = largest * self._scale**2
        self._memory: dict[str, Tensor] = {}
        norms, residuals = [], []
        for some, rows in self._rows():
            rows *= self._scale
            scanned = self._scanned[some, : self.dim]
            if copied:
                scanned.copy_(rows)
                self._scanned[some, self.dim :] = 1.0
            if bias is not None:
                parts = in_parts(bias[some].to(self.device) * self._scale**2, low)
                self._scanned[some, self.dim : self.dim + BIASES] = parts
            norms.append(lengths(rows).max())
            residuals.append(lengths(rows - scanned.float()).max())
        self._norm, self._residual = float(torch.stack(norms).max()), float(torch.stack(residuals).max())
        if not np.isfinite(self._norm):
            raise ValueError("embeddings hold NaN or infinity: did the retriever's training diverge?")

    def _rows(self) -> Iterator[tuple[slice, Tensor]]:
        """The embeddings that are scanned, before they are scaled and rounded, some at a time."""
        for start in range(0, self.size, ROWS):
            some = slice(start, start + ROWS)
            yield some, self.embeddings[some].to(self.device, torch.float32) - self._moved
            self._let_go()

    @property
    def size(self) -> int:
        return len(self.embeddings)

    @property
    def dim(self) -> int:
        return self.embeddings.shape[1]

    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        scores, ids = self.best(queries, k)
        return scores.float(), ids

    @torch.no_grad()
    def best(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As `search`, with scores in float64."""
        queries = queries.to(self.device)
        if not bool(torch.isfinite(queries).all()):
            raise ValueError("queries hold NaN or infinity: did the retriever's training diverge?")
        step = self._together(k)
        parts = []
        with torch.autocast(self.device.type, enabled=False):  # the bound is of these types
            for start in range(0, len(queries), step):
                parts.append(self._best(queries[start : start + step], k))
                self._let_go()
        if not parts:
            nothing = torch.zeros(0, k, dtype=torch.int64, device=self.device)
            return nothing.double(), nothing
        return torch.cat([scores for scores, _ in parts]), torch.cat([ids for _, ids in parts])

    def _let_go(self) -> None:
        """Take the pages that were read out of resident memory; they are read again where they are needed."""
        if self._map is not None:
            self._map._mmap.madvise(mmap.MADV_DONTNEED)

    def _together(self, k: int) -> int:
        """Queries whose maxima may be held at a time."""
        held = MAXIMA[self.device.type] // (1 + self.size // self._widths(k)[0])
        return max(PADDING, min(QUERIES, held))

    def _widths(self, k: int) -> tuple[int, int]:
        """Passages in a group, and groups in a group of groups; powers of two."""
        width = 1 << max(0, (self.size // (SPREAD * k)).bit_length() - 1)
        group = min(width, GROUP)
        return group, min(width // group, GROUPS)

    def _best(self, queries: Tensor, k: int, positive: bool = True) -> tuple[Tensor, Tensor]:
        group, groups = self._widths(k)
        scaled, wide, _ = self._lowered(queries)
        positive = positive and self._positive and wide.dtype != torch.float32 and group > 1
        # [groups of groups, groups, queries]
        maxima = self._group_maxima(wide, group, groups, positive)
        # [groups of groups, queries]
        coarse = _maxima(maxima, positive)
        reached = coarse.float().T.contiguous().topk(k).values[:, -1]
        floor = self._floor(reached, scaled, wide)
        if positive and not bool((floor > 0).all()):
            self._positive = False  # nor will it be next time
            return self._best(queries, k, positive=False)
        outer, query = (coarse >= floor).nonzero(as_tuple=True)
        if len(outer) * groups > REACHED and len(queries) > 1:
            return self._in_halves(queries, k)
        pair, inner = (maxima[outer, :, query] >= floor[query, None]).nonzero(as_tuple=True)
        first, query = (outer[pair] * groups + inner) * group, query[pair]
        if len(first) * group > CANDIDATES and len(queries) > 1:
            return self._in_halves(queries, k)
        row, query = self._within(first, query, group, wide, floor)
        return self._rank(row, query, queries, k)

    def _in_halves(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        halves = [self._best(half, k) for half in queries.chunk(2)]
        return torch.cat([scores for scores, _ in halves]), torch.cat([ids for _, ids in halves])

    def _group_maxima(self, wide: Tensor, group: int, groups: int, positive: bool) -> Tensor:
        """Largest scanned score of each group, -inf where a group is empty: [groups of groups, groups, queries]."""
        count, columns = -(-self.size // (group * groups)), -(-len(wide) // PADDING) * PADDING
        padded = wide.new_zeros(columns, wide.shape[1])
        padded[: len(wide)] = wide
        step = max(1, BLOCK[self.device.type] // (columns * group)) * group
        maxima = self._kept("maxima", count * groups, columns)
        block = self._kept("block", min(step, len(maxima) * group), columns)
        for start in range(0, self.size, step):
            rows = self._scanned[start : start + step]
            torch.mm(rows, padded.T, out=block[: len(rows)])
            filled = -(-len(rows) // group)
            block[len(rows) : filled * group] = -torch.inf
            at = start // group
            _maxima(block[: filled * group].view(filled, group, columns), positive, out=maxima[at : at + filled])
        maxima[-(-self.size // group) :] = -torch.inf
        return maxima.view(count, groups, columns)[:, :, : len(wide)]

    def _kept(self, name: str, *shape: int) -> Tensor:
        """Memory that is kept from search to search: new memory costs more than what is written to it."""
        size = math.prod(shape)
        if name not in self._memory or self._memory[name].numel() < size:
            self._memory[name] = self._scanned.new_empty(size)
        return self._memory[name][:size].view(shape)

    def _lowered(self, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries as they are scanned: times a factor each, in float32 [queries, dim]; as their products with what is
        scanned need them, [queries, scanned]; and what their scores are times, [queries]."""
        factor = torch.full((len(queries),), self._scale, device=self.device)
        if self._scanned.dtype == torch.float16:
            length = lengths(queries).clamp(min=2.0**-100)
            exponent = math.frexp(LENGTH)[1] - 1 - torch.frexp(length).exponent
            bits = (exponent.clamp(-126, 100) + 127) << 23
            fitting = bits.to(torch.int32).view(torch.float32)  # such a power of two that none is longer than LENGTH
            factor = torch.minimum(fitting, factor) if self._biases else fitting
        scaled = queries * factor[:, None]
        wide = self._scanned.new_zeros(len(queries), self._scanned.shape[1])
        wide[:, : self.dim] = scaled
        wide[:, self.dim : self.dim + self._biases] = (factor / self._scale)[:, None]
        return scaled, wide, factor * self._scale

    def _sums(self, wide: Tensor) -> Tensor:
        """What no score of a query is larger than, in size: [queries]."""
        return lengths(wide[:, : self.dim]) * (self._norm + self._residual) + self._bias

    def _error(self, scaled: Tensor, wide: Tensor, added: Tensor | float = 0.0) -> Tensor:
        """How far what a scanned score is rounded from may be from a score with what is added to it: [queries]."""
        low = wide[:, : self.dim]
        rounding = wide.shape[1] * 2.0**-22
        if wide.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
            rounding += 2.0**-6  # both factors may be rounded to bfloat16
        error = lengths(scaled - low.float()) * self._norm + lengths(low) * self._residual
        size = added.abs() if isinstance(added, Tensor) else added
        # float16 has no numbers between 0 and 2^-24
        least = 2.0**-20 if wide.dtype == torch.float16 else 1e-30
        return SLACK * (error + rounding * (self._sums(wide) + size)) + (self._bias + size) * 2.0**-23 + least

    def _floor(self, reached: Tensor, scaled: Tensor, wide: Tensor) -> Tensor:
        """The least scanned score that one of the k best may have, where k passages' scanned scores are `reached`."""
        half_a_unit = torch.finfo(wide.dtype).eps / 2
        # rounding keeps order: a score that is not below this before it is rounded is not below it after
        least = reached.double() - SLACK * half_a_unit * reached.abs() - 2 * self._error(scaled, wide)
        return least.to(wide.dtype)

    def _within(self, first: Tensor, query: Tensor, group: int, wide: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
        """Passages of the groups that begin at `first` whose scanned score reaches the floor of their query."""
        kept = []
        offsets = torch.arange(group, device=self.device)
        for firsts, of in zip(first.split(ROWS // group), query.split(ROWS // group), strict=True):
            rows = firsts[:, None] + offsets
            vectors = self._scanned.index_select(0, rows.flatten().clamp(max=self.size - 1))
            scores = torch.bmm(vectors.view(-1, group, wide.shape[1]), wide[of].unsqueeze(2)).squeeze(2)
            pair, inner = ((scores >= floor[of, None]) & (rows < self.size)).nonzero(as_tuple=True)
            kept.append((rows[pair, inner], of[pair]))
        return torch.cat([row for row, _ in kept]), torch.cat([of for _, of in kept])

    def _rank(self, row: Tensor, query: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best of the candidates in float64, ties by lower id."""
        at = self.embeddings.device
        scores = torch.cat(
            [
                # a sum along each row, unlike a product of matrices, is the same for equal rows wherever they are
                (self.embeddings.index_select(0, rows.to(at)).double() * queries[of].to(at).double()).sum(1)
                for rows, of in zip(row.split(ROWS), query.split(ROWS), strict=True)
            ]
        ).to(self.device)
        order = torch.argsort(row)
        order = order[torch.sort(scores[order], stable=True, descending=True).indices]
        order = order[torch.sort(query[order], stable=True).indices]
        counts = torch.bincount(query, minlength=len(queries))
        best = (counts.cumsum(0) - counts)[:, None] + torch.arange(k, device=self.device)
        return scores[order[best]], row[order[best]]

    def _save(self, folder: Path) -> None:
        path = folder / "embeddings.npy"
        if not path.exists():
            np.save(path, self.embeddings.float().cpu().numpy())


def lengths(rows: Tensor) -> Tensor:
    """Of each row; in float64, which holds the squares of all that float32 holds."""
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)


def scanned_type(config: ExactIndex | ShardedExact, device: torch.device) -> torch.dtype:
    """Of the numbers that are scanned there."""
    if config.dtype == "float32":
        return torch.float32
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32


def in_parts(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers as sums of `BIASES` of another type, [...] to [..., parts]."""
    rest, parts = numbers.float(), []
    for _ in range(BIASES):
        parts.append(rest.to(dtype))
        rest = rest - parts[-1].float()
    return torch.stack(parts, -1)


def _maxima(scores: Tensor, positive: bool, out: Tensor | None = None) -> Tensor:
    """Maxima over dimension 1. Where the largest score is positive, numbers of 16 bits may be compared as integers,
    which takes a fifth of the time; where it is not, `positive` gives some score that is not either."""
    if not positive:
        return torch.amax(scores, 1, out=out)
    integers = torch.amax(scores.view(torch.int16), 1, out=None if out is None else out.view(torch.int16))
    return integers.view(scores.dtype)
