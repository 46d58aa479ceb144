"""Some keys of a datastore in memory, and the nearest of them by squared L2 distance.

|q - k|^2 = |q|^2 - 2 (q k - |k|^2 / 2): the nearest key is the one with the largest inner product plus a bias, which
`rlm.retrieval.exact` scans in 16 bits with a bound on the error. Distances are then computed from the keys themselves,
in float32. What is scanned is moved by the mean key first, which makes the bias small. That changes no distance but by
rounding, which may be more than what tells near keys apart far from the origin: the bound allows for it, and distances
are those of keys and queries as they were given, whose differences float32 holds the better the nearer they are.

Where many neighbours are wanted, groups of keys keep nothing out. Then a sample of the keys tells which score about so
many reach, and one scan keeps those that do.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from torch import Tensor

from rlm.retrieval.config import ExactIndex
from rlm.retrieval.exact import BIASES, GROUP, GROUPS, PADDING, QUERIES, SLACK, Exact, in_parts, lengths

RANKED = {"cpu": 1 << 20, "cuda": 1 << 28}
"""Numbers of candidates' keys that are compared together: on the CPU, what the cache holds."""
PLACES = 1 << 26
"""Numbers of candidates' scores that are looked at together."""
SMALL = 4
"""At most this many keys in a group, where groups keep keys out."""
MANY = {"cpu": 64, "cuda": 1}
"""Neighbours from which on a sample tells what to keep."""
SAMPLED = 32
"""One key of so many is in the sample."""
SCORES = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Computed at a time."""
CANDIDATES = {"cpu": 1 << 22, "cuda": 1 << 25}
"""Groups that may matter to several queries: beyond half of this, queries are searched in halves."""
INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
"""Of the same size."""
ROUNDED = 1 + 2.0**-19
"""A squared distance in float32 to what it may be in truth, at most."""
MOVED = 2.0**-23
"""Half a squared distance changes by at most this share of (|q| + |k|)^2 where q and k are moved in float32, which
rounds each number by 2^-24 of it: |q - k| changes by at most 2^-24 (|q| + |k|), and it is itself at most |q| + |k|."""
WORD = 4
"""Comparisons that are looked at together, as one integer."""


class Segment(Exact):
    """Some keys, the first of them number `first`; arguments as of `Exact`, keys [keys, dim] and their mean [dim]."""

    ones = BIASES

    def __init__(self, first: int, keys: NDArray, centre: Tensor, config: ExactIndex, device: torch.device) -> None:
        self.first, self._centre = first, centre.to(device)
        held = torch.from_numpy(keys).to(device)
        bias = torch.cat([(rows.float() - self._centre).square().sum(1) for rows in held.split(1 << 16)]) / -2
        super().__init__(config, held, device, bias)  # type: ignore[arg-type]

    def nearest(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Squared distances and ids of the min(k, keys) nearest."""
        distances, rows = self.best(queries.to(self.device), min(k, self.size))
        return distances.cpu(), rows.cpu() + self.first

    def nearer(self, queries: Tensor, k: int, than: Tensor) -> tuple[Tensor, Tensor]:
        """As `nearest`, of the keys that are nearer to a query than a distance; at infinity where they are fewer.

        Args:
            queries: [queries, dim].
            k: at most so many.
            than: squared distances, [queries].
        """
        pairs = zip(queries.to(self.device).split(QUERIES), than.to(self.device).split(QUERIES), strict=True)
        with torch.autocast(self.device.type, enabled=False):
            parts = [self._nearer(some, distances, k) for some, distances in pairs]
        return torch.cat([distances for distances, _ in parts]).cpu(), torch.cat(
            [rows for _, rows in parts]
        ).cpu() + self.first

    def _nearer(self, queries: Tensor, than: Tensor, k: int) -> tuple[Tensor, Tensor]:
        scaled, wide, times = self._lowered(queries)
        # q k - |k|^2 / 2 = (|q|^2 - d^2) / 2, for a distance that float32 may have rounded; and scanned keys have moved
        asked = (queries - self._centre).double()
        least = (asked.square().sum(1) - ROUNDED * than.double()) / 2 + asked @ (self._centre - self._moved).double()
        least *= times
        least -= SLACK * self._error(scaled, wide, least)
        found = self._reaching(wide, least)
        if found is None:
            halves = [self._nearer(*half, k) for half in zip(queries.chunk(2), than.chunk(2), strict=True)]
            return torch.cat([distances for distances, _ in halves]), torch.cat([rows for _, rows in halves])
        return self._ranked(*found.keys(torch.zeros_like(least)), queries, k)

    def _best(self, queries: Tensor, k: int, positive: bool = True) -> tuple[Tensor, Tensor]:
        if not positive or not self._samples(k):
            return super()._best(queries, k, positive)
        scaled, wide, _ = self._lowered(queries)
        sampled = (wide @ self._scanned[::SAMPLED].T).float()
        likely = sampled.topk(_sampled(k), sorted=False).values.amin(1).double()
        least = likely - 2 * SLACK * self._error(scaled, wide, likely)
        found = self._reaching(wide, least)
        if found is None:
            return self._in_halves(queries, k)
        reached = found.reached(k)
        half_a_unit = torch.finfo(wide.dtype).eps / 2
        needed = (1 - SLACK * half_a_unit) * reached.double() - 2 * self._error(scaled, wide, least)
        nearest, rows = self._ranked(*found.keys(needed.clamp(min=0)), queries, k)
        short = (needed < 0).nonzero().squeeze(1)  # for these the sample was not like the rest
        for some in short.split(super()._together(k)) if len(short) else ():
            nearest[some], rows[some] = super()._best(queries[some], k)
        return nearest, rows

    def _lowered(self, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super()._lowered(queries - self._centre)

    def _samples(self, k: int) -> bool:
        # below, groups are too few for each to have but one of the k
        return k >= MANY[self.device.type] and max(2 * SAMPLED * _sampled(k), 2 * GROUP * k) < self.size

    def _together(self, k: int) -> int:
        return QUERIES if self._samples(k) else super()._together(k)

    def _reaching(self, wide: Tensor, least: Tensor) -> "Groups | None":
        """Groups of keys of which some may have a score of at least so much; None where they are too many for several
        queries at once.

        What is scanned is the score less the least, so that its sign tells, and rounding is finest where it matters.
        """
        columns = max(1, -(-len(wide) // PADDING)) * PADDING
        padded = wide.new_zeros(columns, wide.shape[1])
        padded[:, -1] = -1.0
        padded[: len(wide)] = wide
        most = 1.01 * self._sums(wide) + 1.0  # beyond what any scanned score is, and no larger than float16 is
        padded[: len(wide), -self.ones :] = in_parts(-torch.minimum(torch.maximum(least, -most), most), wide.dtype)
        step = max(1, SCORES[self.device.type] // (columns * GROUP)) * GROUP
        block = self._kept("block", min(step, -(-self.size // GROUP) * GROUP), columns)
        integers = block.view(INTEGERS[block.dtype])  # compared as integers: a negative number stays negative
        maxima = torch.empty(len(block) // GROUP, columns, dtype=integers.dtype, device=self.device)
        reached = torch.empty(maxima.shape, dtype=torch.int16, device=self.device)  # far faster than bool
        found: list[tuple[Tensor, ...]] = []
        count = 0
        for start in range(0, self.size, step):
            rows = self._scanned[start : start + step]
            torch.mm(rows, padded.T, out=block[: len(rows)])
            groups = -(-len(rows) // GROUP)
            block[len(rows) : groups * GROUP] = -torch.inf
            grouped = integers[: groups * GROUP].view(groups, GROUP, columns)
            torch.amax(grouped, 1, out=maxima[:groups])
            hits = torch.ge(maxima[:groups], 0, out=reached[:groups]).view(-1, WORD)
            word = hits.view(torch.int64).flatten().nonzero().squeeze(1)
            inner, place = hits[word].nonzero(as_tuple=True)
            place += word[inner] * WORD
            group, query = place // columns, place % columns
            largest = maxima.view(-1)[place].view(block.dtype)
            found.append((group + start // GROUP, query, largest, grouped[group, :, query].view(block.dtype)))
            count += len(place)
            if 2 * count > CANDIDATES[self.device.type] and len(wide) > 1:
                return None
        return Groups(len(wide), *(torch.cat(each) for each in zip(*found, strict=True)))

    def _error(self, scaled: Tensor, wide: Tensor, added: Tensor | float = 0.0) -> Tensor:
        # a key that is nearer only by how float32 rounds distances is a candidate, too
        length, of_bias = lengths(scaled), wide[:, self.dim].double()
        # what (|q| + |k|)^2 is in a score; beyond what float32 tells apart, of_bias is 0 and all are candidates
        farthest = length.square() / of_bias + 2 * length * self._norm + of_bias * self._norm**2
        return super()._error(scaled, wide, added) + farthest * ((ROUNDED - 1) / 4 + MOVED)

    def _within(self, first: Tensor, query: Tensor, group: int, wide: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
        """As that of `Exact`, on the CPU with one product for all candidates of a query: they are many."""
        if wide.is_cuda:
            return super()._within(first, query, group, wide, floor)
        order = torch.argsort(query, stable=True)
        counts = torch.bincount(query, minlength=len(wide))
        kept = []
        offsets = torch.arange(group, device=first.device)
        for number, firsts in enumerate(first[order].split(counts.tolist())):
            rows = (firsts[:, None] + offsets).flatten()
            inside = rows < self.size
            scores = self._scanned.index_select(0, rows.clamp(max=self.size - 1)) @ wide[number]
            kept.append(rows[(scores >= floor[number]) & inside])
        counts = torch.tensor([len(rows) for rows in kept], device=first.device)
        return torch.cat(kept), torch.repeat_interleave(torch.arange(len(kept), device=first.device), counts)

    def _widths(self, k: int) -> tuple[int, int]:
        group, groups = super()._widths(k)
        # nearly every group that is kept has one of the many neighbours: the smaller, the fewer others are scored again
        small = min(group, SMALL)
        return small, min(group * groups // small, GROUPS)

    def _rank(self, row: Tensor, query: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        order = torch.argsort(query * self.size + row)
        return self._ranked(row[order], torch.bincount(query, minlength=len(queries)), queries, k)

    def _ranked(self, row: Tensor, counts: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest of the candidates in float32, ties by lower id; at infinity where they are fewer.

        Args:
            row: of each candidate, by query and ascending.
            counts: candidates of each query.
            queries: [queries, dim].
            k: wanted.
        """
        nearest = torch.full((len(queries), k), torch.inf, device=self.device)
        ids = torch.zeros(len(queries), k, dtype=torch.int64, device=self.device)
        together = max(1, RANKED[self.device.type] // self.dim)
        for some, place, outside in _places(counts, together):
            rows = row[place]
            # one query may have more
            parts = [self._distances(queries[some], part) for part in rows.split(max(1, together // len(rows)), 1)]
            most = rows.shape[1]
            nearest[some, :most], best = ascending(torch.cat(parts, 1).masked_fill_(outside, torch.inf), k)
            ids[some, :most] = rows.gather(1, best)
        return nearest, ids

    def _distances(self, queries: Tensor, rows: Tensor) -> Tensor:
        """Squared, of each query to keys of its own, [queries, keys]."""
        keys = self.embeddings.index_select(0, rows.flatten()).float()
        return squared_distances(queries, keys.view(*rows.shape, self.dim))


@dataclass(frozen=True)
class Groups:
    """Groups of consecutive keys whose scores matter to a query, ascending for each."""

    queries: int
    group: Tensor
    """Number of each, [groups]."""
    query: Tensor
    """Of which, [groups]."""
    largest: Tensor
    """Of its scores, above what was asked for, [groups]."""
    scores: Tensor
    """Of its keys, likewise, [groups, GROUP]."""

    def reached(self, k: int) -> Tensor:
        """A score that k keys reach, of each query; -inf where they are fewer: [queries]."""
        order = torch.sort(self.query.to(torch.int16), stable=True).indices
        reached = torch.full((self.queries,), -torch.inf, device=self.query.device)
        largest = self.largest[order]
        for some, place, outside in _places(torch.bincount(self.query, minlength=self.queries), PLACES):
            if place.shape[1] >= k:
                scores = largest[place].float().masked_fill_(outside, -torch.inf)
                reached[some] = scores.topk(k, sorted=False).values.amin(1)
        return reached

    def keys(self, needed: Tensor) -> tuple[Tensor, Tensor]:
        """Keys whose scores reach what is needed: rows, by query and ascending, and how many each query has."""
        # rounding keeps order: what is not below this before it is rounded is not below it after
        least = needed.to(self.scores.dtype)[self.query]
        some = (self.largest >= least).nonzero().squeeze(1)
        pair, inner = (self.scores[some] >= least[some, None]).nonzero(as_tuple=True)
        query, order = torch.sort(self.query[some[pair]].to(torch.int16), stable=True)
        row = self.group[some[pair]] * GROUP + inner
        return row[order], torch.bincount(query.long(), minlength=self.queries)


def squared_distances(queries: Tensor, keys: Tensor) -> Tensor:
    """float32 [queries, dim] and [queries, candidates, dim], which is overwritten, to [queries, candidates]; 0 where
    they are equal."""
    return torch.linalg.vector_norm(keys.sub_(queries[:, None]), dim=2).square_()


def ascending(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row in their order, and where they were, equal ones in the order of their places.

    Args:
        distances: float32, none below 0, [queries, candidates].
        k: wanted, where a row has so many.
    """
    # the bits of such numbers, as integers, are in the same order; the place stands in the lower half
    places = torch.arange(distances.shape[1], device=distances.device)
    pairs = (distances.view(torch.int32).to(torch.int64) << 32) | places
    if pairs.is_cuda:
        pairs = pairs.sort(1).values
    else:
        pairs.numpy().sort(axis=1)  # many times as fast as torch's
    pairs = pairs[:, :k]
    return (pairs >> 32).to(torch.int32).view(torch.float32), pairs & 0xFFFFFFFF


def _sampled(k: int) -> int:
    """More than this many of the sample are hardly ever among the k nearest."""
    expected = k / SAMPLED
    return round(expected + 4 * expected**0.5 + 4)


def _places(counts: Tensor, together: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Queries, where their candidates are, one query after the other, and which places each has not: [queries, most].
    So many queries that together they have at most so many places, but at least one."""
    starts, last = counts.cumsum(0) - counts, max(0, int(counts.sum()) - 1)
    numbers, first = counts.tolist(), 0
    while first < len(numbers):  # counts differ widely: the largest must not fill up all others
        stop, most = first + 1, numbers[first]
        while stop < len(numbers) and (stop + 1 - first) * max(most, numbers[stop]) <= together:
            most, stop = max(most, numbers[stop]), stop + 1
        some = slice(first, stop)
        inside = torch.arange(most, device=counts.device)
        yield some, (starts[some, None] + inside).clamp_(max=last), inside >= counts[some, None]
        first = stop
