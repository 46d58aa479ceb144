"""Whether the orders that a table expects are seen."""

from dataclasses import dataclass
from typing import Literal

from rlm.report.results import Results
from rlm.report.statistics import LEVEL, Difference, compare
from rlm.table import AblationTable

Verdict = Literal["held", "not held", "undecided"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two neighbours of a trend's order, the first expected to be higher."""

    higher: str
    lower: str
    difference: Difference | None
    """None where they cannot be compared."""
    agree: int = 0
    """Seeds in which the first is higher."""
    seeds: int = 0
    """Seeds that both have."""
    reason: str = ""
    """Why it is undecided, but for chance."""

    @property
    def verdict(self) -> Verdict:
        """Decided only where the difference is larger than chance."""
        if self.difference is None or self.difference.p >= LEVEL:
            return "undecided"
        return "held" if self.difference.mean > 0 else "not held"


@dataclass(frozen=True, slots=True)
class Judged:
    """A trend on one data set."""

    dataset: str
    column: str
    order: tuple[str, ...]
    pairs: list[Pair]

    @property
    def verdict(self) -> Verdict:
        """Held if every pair is, not held if any is not, else undecided."""
        verdicts = {pair.verdict for pair in self.pairs}
        if "not held" in verdicts:
            return "not held"
        return "held" if verdicts == {"held"} else "undecided"


def judge(table: AblationTable, results: Results) -> list[Judged]:
    """Every trend on every data set."""
    return [
        Judged(
            dataset=dataset,
            column=trend.column,
            order=trend.order,
            pairs=[
                _pair(results, dataset, trend.column, higher, lower)
                for higher, lower in zip(trend.order, trend.order[1:], strict=False)
            ],
        )
        for dataset in table.datasets
        for trend in table.trends
    ]


def _pair(results: Results, dataset: str, column: str, higher: str, lower: str) -> Pair:
    ours, theirs = results.scores.get((higher, dataset, column)), results.scores.get((lower, dataset, column))
    if ours is None or theirs is None:
        return Pair(higher, lower, None, reason="not finished")
    seeds = tuple(seed for seed in ours.seeds if seed in theirs.seeds)
    if not seeds or ours.questions != theirs.questions:
        return Pair(higher, lower, None, reason=f"no {'questions' if seeds else 'seed'} in common")
    same = ours.stages_of(seeds) == theirs.stages_of(seeds)
    return Pair(
        higher,
        lower,
        compare(ours.of(seeds), theirs.of(seeds)),
        agree=sum(float(ours.of((seed,)).mean()) > float(theirs.of((seed,)).mean()) for seed in seeds),
        seeds=len(seeds),
        reason="the same stages" if same else "",
    )
