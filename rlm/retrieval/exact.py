"""Exact maximum inner product search in torch: a fast scan whose error is bounded, then a re-rank in float64.

Selecting from a million scores costs more than computing them, so no score is sorted that cannot matter. Passages are
scanned in blocks that stay in the cache, and only the maximum of each group of passages is kept, twice over. The k-th
largest of these maxima is a score that k passages reach, so that a passage among the k best scores at least this, less
twice the error of a scanned score. The few passages that may reach it are scored from the embeddings themselves.

The scan is in bfloat16 where that is fast. With c the mean embedding, z' = z - c (which changes all scores of a query
by the same) and x^, z^ what bfloat16 leaves of x and z':

    |x z' - x^ z^| <= |x - x^| max |z'| + |x^| max |z' - z^| + rounding of the sums

by Cauchy-Schwarz, with the norms measured rather than assumed. The ids are therefore those of a search in float64.
"""

import math
import mmap
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
ROWS = 1 << 16
"""Embeddings read, or re-ranked, at a time."""
ALIGNED = 8
"""What is scanned is as wide as a multiple of this: other products take slow paths on a GPU."""
PADDING = 16
"""Batches are filled up to a multiple of this, because products with few columns take slow paths."""
MAPPED = 1 << 30
"""Bytes of a memory map that may stay resident; of a larger one, what was read is let go of."""
BIASES = 3
"""Numbers of bfloat16 that hold one of float32 (in float32, two of them are 0)."""
SLACK = 1.001
"""Of the error bound, for its own rounding."""


class Exact(Index):
    """Every passage is compared; the ids, and their order, are those of a search in float64. One search at a time: it
    uses memory that is kept for the next.

    Args:
        config: `dtype` of the scan; bfloat16 halves its memory (a copy of the embeddings) and is used where the device
            is fast at it. float32 scans the embeddings where they are, or with a bias a copy.
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
        self._bias = 0.0 if bias is None else float(bias.abs().max())
        self._positive = True
        low = scanned_type(config, self.device)
        if self.device.type == "cuda":  # else partial sums may be rounded to bfloat16, which no useful bound allows for
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        copied = low == torch.bfloat16 or bias is not None
        wide = -(-(self.dim + self._biases + self.ones) // ALIGNED) * ALIGNED
        self._scanned = (
            torch.empty(self.size, wide, dtype=low, device=self.device)
            if copied
            else self.embeddings.to(self.device, low)
        )
        centre = torch.zeros((), device=self.device)
        if low == torch.bfloat16:
            centre = self.embeddings[:: max(1, self.size // ROWS)].float().mean(0).to(self.device)
        self._moved = centre
        """What the scanned embeddings are less than the embeddings: [dim], or 0."""
        self._memory: dict[str, Tensor] = {}
        norms, residuals = [], []
        for start in range(0, self.size, ROWS):
            rows = self.embeddings[start : start + ROWS].to(self.device, torch.float32) - centre
            scanned = self._scanned[start : start + ROWS, : self.dim]
            if copied:
                scanned.copy_(rows)
                self._scanned[start : start + ROWS, self.dim :] = 1.0
            if bias is not None:
                parts = in_parts(bias[start : start + ROWS].to(self.device), self._scanned.dtype)
                self._scanned[start : start + ROWS, self.dim : self.dim + BIASES] = parts
            norms.append(rows.norm(dim=1).max())
            residuals.append((rows - scanned.float()).norm(dim=1).max())
            self._let_go()
        self._norm, self._residual = float(torch.stack(norms).max()), float(torch.stack(residuals).max())
        if not np.isfinite(self._norm):
            raise ValueError("embeddings hold NaN or infinity: did the retriever's training diverge?")

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
        low = queries.to(self._scanned.dtype)
        positive = positive and self._positive and low.dtype == torch.bfloat16 and group > 1
        # [groups of groups, groups, queries]
        wide = self._widened(low)
        maxima = self._group_maxima(wide, group, groups, positive)
        # [groups of groups, queries]
        coarse = _maxima(maxima, positive)
        reached = coarse.float().T.contiguous().topk(k).values[:, -1]
        floor = self._floor(reached, queries, low)
        if positive and not bool((floor > 0).all()):
            self._positive = False  # nor will it be next time
            return self._best(queries, k, positive=False)
        outer, query = (coarse >= floor).nonzero(as_tuple=True)
        pair, inner = (maxima[outer, :, query] >= floor[query, None]).nonzero(as_tuple=True)
        first, query = (outer[pair] * groups + inner) * group, query[pair]
        if len(first) * group > CANDIDATES and len(queries) > 1:
            halves = [self._best(half, k) for half in queries.chunk(2)]
            return torch.cat([scores for scores, _ in halves]), torch.cat([ids for _, ids in halves])
        row, query = self._within(first, query, group, wide, floor)
        return self._rank(row, query, queries, k)

    def _group_maxima(self, low: Tensor, group: int, groups: int, positive: bool) -> Tensor:
        """Largest scanned score of each group, -inf where a group is empty: [groups of groups, groups, queries]."""
        count, columns = -(-self.size // (group * groups)), -(-len(low) // PADDING) * PADDING
        padded = low.new_zeros(columns, low.shape[1])
        padded[: len(low)] = low
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
        return maxima.view(count, groups, columns)[:, :, : len(low)]

    def _kept(self, name: str, *shape: int) -> Tensor:
        """Memory that is kept from search to search: new memory costs more than what is written to it."""
        size = math.prod(shape)
        if name not in self._memory or self._memory[name].numel() < size:
            self._memory[name] = self._scanned.new_empty(size)
        return self._memory[name][:size].view(shape)

    def _widened(self, low: Tensor) -> Tensor:
        """Queries as their products with what is scanned need them."""
        pad = torch.nn.functional.pad
        with_biases = pad(low, (0, self._biases), value=1.0)
        return pad(with_biases, (0, self._scanned.shape[1] - with_biases.shape[1]))

    def _error(self, queries: Tensor, low: Tensor, added: Tensor | float = 0.0) -> Tensor:
        """How far what a scanned score is rounded from may be from a score with what is added to it: [queries]."""
        rounding = self.dim * 2.0**-22
        if low.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
            rounding += 2.0**-6  # both factors may be rounded to bfloat16
        length = low.float().norm(dim=1)
        error = (queries - low.float()).norm(dim=1) * self._norm + length * self._residual
        parts = self._bias + (added.abs() if isinstance(added, Tensor) else added)
        sums = length * (self._norm + self._residual) + parts
        return SLACK * (error + rounding * sums) + parts * 2.0**-23 + 1e-30

    def _floor(self, reached: Tensor, queries: Tensor, low: Tensor) -> Tensor:
        """The least scanned score that one of the k best may have, where k passages' scanned scores are `reached`."""
        half_a_unit = torch.finfo(low.dtype).eps / 2
        # rounding keeps order: a score that is not below this before it is rounded is not below it after
        least = reached.double() - SLACK * half_a_unit * reached.abs() - 2 * self._error(queries, low)
        return least.to(low.dtype)

    def _within(self, first: Tensor, query: Tensor, group: int, low: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
        """Passages of the groups that begin at `first` whose scanned score reaches the floor of their query."""
        kept = []
        offsets = torch.arange(group, device=self.device)
        for firsts, of in zip(first.split(ROWS // group), query.split(ROWS // group), strict=True):
            rows = firsts[:, None] + offsets
            vectors = self._scanned.index_select(0, rows.flatten().clamp(max=self.size - 1))
            scores = torch.bmm(vectors.view(-1, group, low.shape[1]), low[of].unsqueeze(2)).squeeze(2)
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


def scanned_type(config: ExactIndex | ShardedExact, device: torch.device) -> torch.dtype:
    """Of the numbers that are scanned there."""
    return torch.bfloat16 if config.dtype == "bfloat16" and has_fast_bfloat16(device) else torch.float32


def in_parts(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers as sums of `BIASES` of another type, [...] to [..., parts]."""
    rest, parts = numbers.float(), []
    for _ in range(BIASES):
        parts.append(rest.to(dtype))
        rest = rest - parts[-1].float()
    return torch.stack(parts, -1)


def _maxima(scores: Tensor, positive: bool, out: Tensor | None = None) -> Tensor:
    """Maxima over dimension 1. Where the largest score is positive, bfloat16 numbers may be compared as integers, which
    takes a fifth of the time; where it is not, `positive` gives some score that is not either."""
    if not positive:
        return torch.amax(scores, 1, out=out)
    integers = torch.amax(scores.view(torch.int16), 1, out=None if out is None else out.view(torch.int16))
    return integers.view(torch.bfloat16)
