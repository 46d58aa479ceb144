"""Figures, intervals and paired tests over units: questions, documents."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rlm.metrics.translation import bleu, chrf
from rlm.stages.columns import Aggregate

RESAMPLES = 10_000
LEVEL = 0.05
POWER = 0.80
_FEW = 64
"""Up to so many distinct units, it is drawn how often each occurs, instead of units."""
_DRAWN_AT_ONCE = 2**20
"""Units, so that resampling takes little memory."""
_OF_STATISTICS = {"bleu": bleu, "chrf": chrf}
_STEP = 1e-4
"""Relative, of the derivatives of figures that have no simple ones."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured of each unit: the figure of a seed is made from sums over units."""

    values: NDArray[np.float64]
    """[seeds, units], or [seeds, units, statistics]"""
    weights: NDArray[np.float64]
    """[seeds, units]; 1 where the figure is a mean."""
    aggregate: Aggregate = "ratio"

    def by_seed(self) -> NDArray[np.float64]:
        """The figure of each seed, [seeds]."""
        return self.of(self.values.sum(axis=1), self.weights.sum(axis=1))

    def of(self, values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The figure from sums over units, [...] or [..., statistics]."""
        if self.aggregate in _OF_STATISTICS:
            return _OF_STATISTICS[self.aggregate](values)
        ratio = values / weights
        return np.exp(ratio) if self.aggregate == "exp_ratio" else ratio

    def seeds_averaged(self) -> "Sample":
        """The same mean figure from one line of values, where the figure is linear in them; else all seeds."""
        if self.aggregate != "ratio" or not np.array_equal(self.weights, self.weights[:1].repeat(len(self.weights), 0)):
            return self
        return Sample(self.values.mean(axis=0, keepdims=True), self.weights[:1])

    def influence(self) -> NDArray[np.float64]:
        """How far each unit pulls the figure, to first order (the delta method): its mean is 0, [units]."""
        if self.aggregate in _OF_STATISTICS:
            # [seeds, 1, statistics]; the figures do not change where all sums are scaled, so means do as well
            mean = self.values.mean(axis=1, keepdims=True)
            shifted = mean + _STEP * mean * np.eye(mean.shape[2])
            lowered = mean - _STEP * mean * np.eye(mean.shape[2])
            with np.errstate(divide="ignore", invalid="ignore"):
                slope = np.nan_to_num((self.of(shifted, mean) - self.of(lowered, mean))[:, None] / (2 * _STEP * mean))
            return ((self.values - mean) * slope).sum(axis=2).mean(axis=0)
        figure = self.by_seed()[:, None]
        ratio = np.log(figure) if self.aggregate == "exp_ratio" else figure
        pull = (self.values - ratio * self.weights) / self.weights.mean(axis=1, keepdims=True)
        return (pull * figure if self.aggregate == "exp_ratio" else pull).mean(axis=0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A row's figure."""

    mean: float
    """Over seeds."""
    sd: float | None
    """Between seeds, None with one seed."""
    low: float
    """95 % interval over units."""
    high: float
    n: int
    """Units."""
    seeds: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One row less another, on the same units."""

    mean: float
    low: float
    """95 % interval over units."""
    high: float
    p: float
    """Two-sided."""
    detectable: float | None
    """Smallest difference that would be found with 80 % power; None where the rows do alike."""
    n: int


def estimate(sample: Sample) -> Estimate:
    """Mean, spread between seeds, and interval."""
    by_seed = sample.by_seed()
    low, high = np.quantile(resampled([(1, sample.seeds_averaged())]), [LEVEL / 2, 1 - LEVEL / 2])
    return Estimate(
        mean=float(by_seed.mean()),
        sd=float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
        low=float(low),
        high=float(high),
        n=sample.values.shape[1],
        seeds=len(by_seed),
    )


def compare(ours: Sample, theirs: Sample) -> Difference:
    """Paired bootstrap of two rows measured on the same units, with the same number of seeds.

    p is the share of resamples, shifted so that their mean is 0, that lie as far from 0 as the observed difference
    (Efron & Tibshirani 1993, section 16.4; Berg-Kirkpatrick et al. 2012), with one added to both counts (Davison &
    Hinkley 1997, section 4.2). The smallest detectable difference is (z_0.975 + z_0.80) * sd / sqrt(n) of the paired
    differences (Bloom 1995, Minimum Detectable Effects), of ratios to first order (the delta method).
    """
    # The other way round gives the same figures with the other sign, although the draws are random.
    sign = -1 if ours.by_seed().mean() < theirs.by_seed().mean() else 1
    terms = _difference(*((ours, theirs) if sign > 0 else (theirs, ours)))
    mean = float(sum(part * sample.by_seed().mean() for part, sample in terms))
    figures = resampled(terms)
    low, high = np.quantile(figures, [LEVEL / 2, 1 - LEVEL / 2])
    # The sums are of few distinct values: a tie is a tie although the floats differ in the last bit.
    far = int(np.count_nonzero(np.abs(figures - mean) >= abs(mean) - 1e-9))
    n = ours.values.shape[1]
    influence = np.sum([part * sample.influence() for part, sample in terms], axis=0)
    standard_error = float(influence.std(ddof=1)) / sqrt(n) if n > 1 else 0.0
    z = NormalDist().inv_cdf
    return Difference(
        mean=sign * mean,
        low=float(low if sign > 0 else -high),
        high=float(high if sign > 0 else -low),
        p=(1 + far) / (1 + len(figures)),
        detectable=(z(1 - LEVEL / 2) + z(POWER)) * standard_error if standard_error > 1e-12 else None,
        n=n,
    )


def _difference(ours: Sample, theirs: Sample) -> list[tuple[int, Sample]]:
    """The terms that add up to ours less theirs: one, of the units' differences, where the figures are linear."""
    ours, theirs = ours.seeds_averaged(), theirs.seeds_averaged()
    linear = len(ours.values) == 1 and ours.aggregate == theirs.aggregate == "ratio"
    if linear and np.array_equal(ours.weights, theirs.weights):
        return [(1, Sample(ours.values - theirs.values, ours.weights))]
    return [(1, ours), (-1, theirs)]


def resampled(terms: Sequence[tuple[int, Sample]]) -> NDArray[np.float64]:
    """Signed sums of mean figures, of 10,000 samples of the units with replacement; the same draws at every call.

    Samples whose weights add up to 0 have no figure and are left out.
    """
    # [units, features]: the seeds' values, then their weights, of each term
    parts = [part for _, sample in terms for part in (sample.values, sample.weights)]
    features = np.concatenate([part.swapaxes(0, 1).reshape(part.shape[1], -1) for part in parts], axis=1)
    sums = np.concatenate([drawn @ distinct for drawn, distinct in _draws(features)])
    total, first = np.zeros(len(sums)), 0
    for sign, sample in terms:
        seeds, _, *statistics = sample.values.shape
        last = first + seeds * prod(statistics)
        values, weights = sums[:, first:last].reshape(-1, seeds, *statistics), sums[:, last : last + seeds]
        with np.errstate(divide="ignore", invalid="ignore"):
            total += sign * sample.of(values, weights).mean(axis=1)
        first = last + seeds
    return total[np.isfinite(total)]


def _draws(features: NDArray[np.float64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """How often each unit, or each distinct kind of unit, is drawn, [samples, kinds]; and their features.

    How often each kind is drawn is multinomial, and of questions there are few (2 * seeds + 1 differences): drawing
    counts in place of units has the same distribution, and is a thousand times faster.
    """
    generator, n = np.random.default_rng(0), len(features)
    distinct, counts = np.unique(features.round(9), axis=0, return_counts=True)
    if len(distinct) <= _FEW:
        yield generator.multinomial(n, counts / n, size=RESAMPLES), distinct
        return
    at_once = max(1, _DRAWN_AT_ONCE // n)
    for first in range(0, RESAMPLES, at_once):
        samples = min(at_once, RESAMPLES - first)
        drawn = generator.integers(0, n, (samples, n)) + n * np.arange(samples)[:, None]
        yield np.bincount(drawn.ravel(), minlength=samples * n).reshape(samples, n), features


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure)."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
