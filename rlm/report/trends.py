"""Whether the orders that a table expects are seen."""

from dataclasses import dataclass, replace
from typing import Literal

from rlm.report.results import Results
from rlm.report.statistics import LEVEL, Difference, compare
from rlm.table import AblationTable, Relation, Trend

Verdict = Literal["held", "not held", "undecided"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two neighbours of a trend's order."""

    first: str
    second: str
    relation: Relation
    """How the first is expected to stand to the second."""
    difference: Difference | None
    """None where they cannot be compared."""
    agree: int = 0
    """Seeds in which it does."""
    seeds: int = 0
    """Seeds that both have."""
    reason: str = ""
    """Why it is undecided, but for chance."""

    @property
    def verdict(self) -> Verdict:
        """Decided only where the difference is larger than chance."""
        if self.difference is None or self.difference.p >= LEVEL:
            return "undecided"
        return "held" if _stands(self.difference.mean, self.relation) else "not held"


@dataclass(frozen=True, slots=True)
class Judged:
    """A trend on one data set."""

    dataset: str
    column: str
    order: tuple[str, ...]
    relation: Relation
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
            relation=trend.relation,
            pairs=[
                _pair(results, dataset, trend, first, second)
                for first, second in zip(trend.order, trend.order[1:], strict=False)
            ],
        )
        for dataset in table.datasets
        for trend in table.trends
    ]


def _stands(difference: float, relation: Relation) -> bool:
    return difference > 0 if relation == ">" else difference < 0


def _pair(results: Results, dataset: str, trend: Trend, first: str, second: str) -> Pair:
    pair = Pair(first, second, trend.relation, None)
    ours, theirs = (results.scores.get((row, dataset, trend.column)) for row in (first, second))
    if ours is None or theirs is None:
        unfinished = any((row, dataset) in results.missing for row in (first, second))
        return replace(pair, reason="not finished" if unfinished else "nothing to measure it on")
    seeds = tuple(seed for seed in ours.seeds if seed in theirs.seeds)
    if not seeds or not ours.same_units(theirs):
        return replace(pair, reason=f"no {ours.column.units if seeds else 'seed'} in common")
    if not ours.same_weights(theirs, seeds):
        return replace(pair, reason=f"other {ours.column.compared_weights}")
    by_seed = ours.of(seeds).by_seed() - theirs.of(seeds).by_seed()
    return replace(
        pair,
        difference=compare(ours.of(seeds), theirs.of(seeds)),
        agree=sum(_stands(float(difference), trend.relation) for difference in by_seed),
        seeds=len(seeds),
        reason="the same stages" if ours.stages_of(seeds) == theirs.stages_of(seeds) else "",
    )
