"""All figures of a table, ready to be written in any format."""

from dataclasses import dataclass
from pathlib import Path

from rlm.report.results import Cost, Results, read_results
from rlm.report.statistics import LEVEL, Difference, Estimate, compare, estimate, holm
from rlm.report.trends import Judged, judge
from rlm.table import AblationTable, Cell


@dataclass(frozen=True, slots=True)
class Compared:
    """A row against the baseline row."""

    difference: Difference
    p_holm: float | None
    """Corrected over the column's rows; None where both rows show the very same stages."""

    @property
    def significant(self) -> bool:
        """Whether the row differs from the baseline, after correction."""
        return self.p_holm is not None and self.p_holm < LEVEL


@dataclass(frozen=True, slots=True)
class Summary:
    """A table's figures by row, data set and column."""

    table: AblationTable
    cells: list[Cell]
    store: Path
    results: Results
    estimates: dict[tuple[str, str, str], Estimate]
    compared: dict[tuple[str, str, str], Compared]
    trends: list[Judged]

    def reported(self, row: str, dataset: str, column: str) -> float | None:
        """The paper's number, None where it gives none."""
        return self.table.reported.get(row, {}).get(self.reported_on(dataset), {}).get(column)

    def reported_on(self, dataset: str) -> str:
        """The data set of the paper's numbers that stand beside a data set's: itself, else the paper's only one."""
        known = {name for rows in self.table.reported.values() for name in rows}
        return dataset if dataset in known or len(known) != 1 else next(iter(known))

    def cost(self, row: str | None = None, dataset: str | None = None) -> Cost:
        """Of one row, or of all; on one data set, or on all."""
        total = Cost()
        for (of_row, of_dataset), cost in self.results.costs.items():
            if row in (None, of_row) and dataset in (None, of_dataset):
                total.core_seconds += cost.core_seconds
                total.gpu_seconds += cost.gpu_seconds
                total.missing += cost.missing
        return total


def summarise(table: AblationTable, cells: list[Cell], store: Path) -> Summary:
    """Read the store and test every row against the baseline.

    Raises:
        StageError: finished stages contradict each other.
    """
    results = read_results(table, cells, store)
    compared: dict[tuple[str, str, str], Compared] = {}
    for column in (name for name in table.columns if not table.column(name).setting):
        for dataset in table.datasets:
            compared.update(_compare(table, results, dataset, column))
    results.notes = list(dict.fromkeys(results.notes))
    return Summary(
        table=table,
        cells=cells,
        store=store,
        results=results,
        estimates={place: estimate(scores.sample) for place, scores in results.scores.items()},
        compared=compared,
        trends=judge(table, results),
    )


def _compare(table: AblationTable, results: Results, dataset: str, column: str) -> dict[tuple[str, str, str], Compared]:
    baseline = results.scores.get((table.baseline, dataset, column))
    if baseline is None:
        return {}
    differences, same = {}, {}
    for row in table.rows:
        scores = results.scores.get((row, dataset, column))
        if row == table.baseline or scores is None:
            continue
        seeds = tuple(seed for seed in scores.seeds if seed in baseline.seeds)
        of = scores.column
        if not scores.same_units(baseline):
            results.notes.append(f"{row} on {dataset}: other {of.units} than {table.baseline}, so it is not compared")
        elif not scores.same_weights(baseline, seeds):
            results.notes.append(
                f"{row} on {dataset}: other {of.compared_weights} than {table.baseline}, so {of.label} is not compared"
            )
        elif seeds:
            place = row, dataset, column
            differences[place] = compare(scores.of(seeds), baseline.of(seeds))
            same[place] = scores.stages_of(seeds) == baseline.stages_of(seeds)
    tested = [place for place in differences if not same[place]]
    corrected = dict(zip(tested, holm([differences[place].p for place in tested]), strict=True))
    return {place: Compared(difference, corrected.get(place)) for place, difference in differences.items()}
