"""Means, intervals and paired tests over questions."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.05
POWER = 0.80


@dataclass(frozen=True, slots=True)
class Estimate:
    """A row's mean, in percent."""

    mean: float
    sd: float | None
    """Between seeds, None with one seed."""
    low: float
    """95 % interval over questions."""
    high: float
    n: int
    """Questions."""
    seeds: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One row less another, on the same questions, in percentage points."""

    mean: float
    low: float
    """95 % interval over questions."""
    high: float
    p: float
    """Two-sided."""
    detectable: float | None
    """Smallest difference that would be found with 80 % power; None where the rows answer alike."""
    n: int


def estimate(values: NDArray[np.float64]) -> Estimate:
    """Mean, spread between seeds, and interval; values are [seeds, questions]."""
    by_seed = values.mean(axis=1)
    low, high = np.quantile(resampled_means(values.mean(axis=0)), [LEVEL / 2, 1 - LEVEL / 2])
    return Estimate(
        mean=float(by_seed.mean()),
        sd=float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
        low=float(low),
        high=float(high),
        n=values.shape[1],
        seeds=len(by_seed),
    )


def compare(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Difference:
    """Paired bootstrap of two rows' values per question, [questions] each, already averaged over seeds.

    p is the share of resamples, shifted so that their mean is 0, that lie as far from 0 as the observed difference
    (Efron & Tibshirani 1993, section 16.4; Berg-Kirkpatrick et al. 2012), with one added to both counts (Davison &
    Hinkley 1997, section 4.2). The smallest detectable difference is (z_0.975 + z_0.80) * sd / sqrt(n) of the paired
    differences (Bloom 1995, Minimum Detectable Effects).
    """
    # The other way round gives the same figures with the other sign, although the draws are random.
    sign = -1 if ours.sum() < theirs.sum() else 1
    differences = sign * (ours - theirs)
    mean = float(differences.mean())
    means = resampled_means(differences)
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    # The sums are of few distinct values: a tie is a tie although the floats differ in the last bit.
    far = int(np.count_nonzero(np.abs(means - mean) >= abs(mean) - 1e-9))
    n = len(differences)
    standard_error = float(differences.std(ddof=1)) / sqrt(n) if n > 1 else 0.0
    z = NormalDist().inv_cdf
    return Difference(
        mean=sign * mean,
        low=float(low if sign > 0 else -high),
        high=float(high if sign > 0 else -low),
        p=(1 + far) / (1 + RESAMPLES),
        detectable=(z(1 - LEVEL / 2) + z(POWER)) * standard_error if standard_error else None,
        n=n,
    )


def resampled_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of 10,000 samples of the questions with replacement, [10000]; the same at every call.

    How often each distinct value is drawn is multinomial, and there are few of them (2 * seeds + 1 differences), so
    this draws counts in place of questions: the same distribution, a thousand times faster.
    """
    distinct, counts = np.unique(values.round(9), return_counts=True)
    n = len(values)
    drawn = np.random.default_rng(0).multinomial(n, counts / n, size=RESAMPLES)
    return drawn @ distinct / n


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure)."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
