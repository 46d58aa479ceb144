"""Reads the store: what each finished cell measures per unit, what is missing, and what it cost."""

import functools
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlm.errors import StageError
from rlm.report.statistics import Sample
from rlm.stage_record import parse_json
from rlm.stages.columns import Column
from rlm.stages.stage import Stage
from rlm.stages.store import Damaged, find_finished, stage_folder
from rlm.table import AblationTable, Cell, distinct_stages

_Read = TypeVar("_Read")
REMEDY = "remove the folder and `rlm run` makes it again"
# What taking apart a line of another form raises.
WRONG_FORM = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class Scores:
    """A column of one row on one data set."""

    column: Column
    units: tuple[str, ...]
    """Ids of what was measured (questions, documents), in the order of the file."""
    seeds: tuple[int, ...]
    """The finished ones."""
    values: NDArray[np.float64]
    """[seeds, units], or [seeds, units, statistics]"""
    weights: NDArray[np.float64]
    """[seeds, units]"""
    stages: tuple[str, ...]
    """Keys of the stages that they come from, by seed."""

    @property
    def sample(self) -> Sample:
        """Of all seeds."""
        return Sample(self.values, self.weights, self.column.aggregate)

    def of(self, seeds: tuple[int, ...]) -> Sample:
        """Of some seeds."""
        places = [self.seeds.index(seed) for seed in seeds]
        return Sample(self.values[places], self.weights[places], self.column.aggregate)

    def stages_of(self, seeds: tuple[int, ...]) -> list[str]:
        """Keys of the stages of some seeds."""
        return [self.stages[self.seeds.index(seed)] for seed in seeds]

    def same_units(self, other: "Scores") -> bool:
        """Whether both measure the same questions or documents."""
        return self.units == other.units

    def same_weights(self, other: "Scores", seeds: tuple[int, ...]) -> bool:
        """Whether the units weigh the same in both, where the column asks for it."""
        return not self.column.compared_weights or np.array_equal(self.of(seeds).weights, other.of(seeds).weights)


@dataclass(slots=True)
class Cost:
    """Work of finished stages, each counted once."""

    core_seconds: float = 0.0
    """Of stages without an accelerator."""
    gpu_seconds: float = 0.0
    missing: int = 0
    """Stages whose cost is not known yet."""

    def add(self, record: dict[str, Any] | None) -> None:
        """Count a stage's record; None where it is not finished."""
        if record is None:
            self.missing += 1
        elif record["gpu_seconds"]:
            self.gpu_seconds += record["gpu_seconds"]
        else:
            self.core_seconds += record["core_seconds"]


@dataclass(slots=True)
class Results:
    """What the store knows about a table; keys are row, data set (and column)."""

    scores: dict[tuple[str, str, str], Scores] = field(default_factory=dict)
    missing: dict[tuple[str, str], dict[int, list[str]]] = field(default_factory=dict)
    """Roles of the unfinished stages by seed."""
    costs: dict[tuple[str, str], Cost] = field(default_factory=dict)
    """A stage that several share is counted where it is used first."""
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Records of finished stages by key."""
    notes: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether no result is finished."""
        return not self.scores


def read_results(table: AblationTable, cells: list[Cell], store: Path) -> Results:
    """Everything the table's columns and trends need.

    Raises:
        StageError: a default has changed since a stage was made, or finished stages contradict each other.
    """
    results = Results()
    for key, (stage, users) in distinct_stages(cells).items():
        record = None
        try:
            record = find_finished(stage, store)
        except Damaged as error:
            results.notes.append(f"{error}; `rlm run` computes it again")
        if record is not None:
            results.finished[key] = record
        results.costs.setdefault((users[0].row, users[0].dataset), Cost()).add(record)
    for cell in cells:
        absent = _absent(cell, results.finished)
        if absent:
            results.missing.setdefault((cell.row, cell.dataset), {})[cell.seed] = absent
    for name in table.columns_read:
        column = table.column(name)
        for row in table.rows:
            for dataset in table.datasets:
                mine = [cell for cell in cells if (cell.row, cell.dataset) == (row, dataset)]
                scores = _scores(column, mine, results, store)
                if scores is not None:
                    results.scores[row, dataset, name] = scores
    _assert_rows_agree(cells, results)
    return results


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSON Lines file that a stage wrote."""
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = parse_json(text)
            except ValueError:
                line = None
            if not isinstance(line, dict):
                raise StageError(f"{path}:{number}: no JSON object; {REMEDY}")
            yield line


def read_written(path: Path, read: Callable[[Any], _Read], lines: Iterable[Any]) -> Iterator[_Read]:
    """What a column or a figure reads in each line of a file that a stage wrote.

    Args:
        path: of the file.
        read: takes a line.
        lines: of the file; or the one value that it holds.

    Raises:
        StageError: a line has another form.
    """
    for number, line in enumerate(lines, 1):
        try:
            found = read(line)
        except WRONG_FORM as error:
            raise StageError(
                f"{path}:{number}: is not what its stage writes ({type(error).__name__}: {error}); {REMEDY}"
            ) from None
        yield found


def _absent(cell: Cell, finished: Container[str]) -> list[str]:
    """Roles that are still to be computed for the cell's unfinished leaves."""
    roles = {stage.key: role for role, stage in reversed(cell.stages.items())}
    unfinished = [role for role in cell.leaves if cell.stages[role].key not in finished]
    needed = Cell(
        row=cell.row, dataset=cell.dataset, seed=cell.seed, stages=cell.stages, leaves=tuple(unfinished)
    ).needed()
    return [roles.get(key, stage.name) for key, stage in needed.items() if key not in finished]


def _scores(column: Column, cells: list[Cell], results: Results, store: Path) -> Scores | None:
    found: dict[int, tuple[Stage, tuple[str, ...], NDArray[np.float64], NDArray[np.float64]]] = {}
    for cell in cells:
        stage = cell.stages.get(column.role)  # a row may have no such stage: the model alone searches nothing
        record = None if stage is None else results.finished.get(stage.key)
        if stage is None or record is None:
            continue
        path = stage_folder(store, stage) / column.file
        units, values, weights = _measured(path, path.stat().st_mtime_ns, column)
        recorded = record["metrics"].get(column.metric or column.name)
        if recorded is None:  # a filter kept nothing
            results.notes.append(f"{cell.row} on {cell.dataset}: nothing to measure {column.label} on")
            continue
        if not _gives(column, values, weights, recorded):
            raise StageError(f"{path}: does not give the recorded {column.name} of {recorded}")
        found[cell.seed] = stage, units, values, weights
    if not found:
        return None
    if len({ids for _, ids, _, _ in found.values()}) > 1:
        raise StageError(f"{cells[0].row} on {cells[0].dataset}: the seeds are measured on different {column.units}")
    return Scores(
        column=column,
        units=next(iter(found.values()))[1],
        seeds=tuple(found),
        values=np.array([values for _, _, values, _ in found.values()]),
        weights=np.array([weights for _, _, _, weights in found.values()]),
        stages=tuple(stage.key for stage, _, _, _ in found.values()),
    )


def _gives(column: Column, values: NDArray[np.float64], weights: NDArray[np.float64], recorded: float) -> bool:
    """Whether the units' measures make up the recorded one."""
    if not weights.sum() > 0:
        return False
    try:
        found = float(Sample(values[None], weights[None], column.aggregate).by_seed()[0])
    except WRONG_FORM:
        return False
    return isclose(found, recorded, rel_tol=1e-6, abs_tol=1e-6)


# A table is printed and then written; rows share files.
@functools.cache
def _measured(
    path: Path, modified: int, column: Column
) -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Ids, values and weights of the units in a file that was `modified` then (nanoseconds)."""
    units, values, weights = [], [], []
    for number, line in enumerate(read_lines(path), 1):
        try:
            value, weight = column.read(line)
            units.append(str(line["id"]))
        except WRONG_FORM as error:
            raise StageError(f"{path}:{number}: no {column.name} ({type(error).__name__}: {error})") from None
        values.append(value)
        weights.append(weight)
    try:
        return tuple(units), np.array(values, dtype=np.float64), np.array(weights, dtype=np.float64)
    except WRONG_FORM as error:
        raise StageError(f"{path}: no {column.name} ({type(error).__name__}: {error}); {REMEDY}") from None


def _assert_rows_agree(cells: list[Cell], results: Results) -> None:
    """What a stage's inputs alone determine is the same, whatever else a row changes (as a retriever's recall is).

    Raises:
        StageError: it is not.
    """
    seen: dict[object, tuple[Cell, Sample]] = {}
    for (row, dataset, name), scores in results.scores.items():
        column = scores.column
        if not column.determined_by:
            continue
        for cell in cells:
            if (cell.row, cell.dataset) != (row, dataset) or cell.seed not in scores.seeds:
                continue
            inputs = cell.stages[column.role].inputs
            same = name, scores.units, frozenset((role, stage.key) for role, stage in inputs.items())
            shown = scores.of((cell.seed,))
            other, expected = seen.setdefault(same, (cell, shown))
            if not np.array_equal([shown.values, shown.weights], [expected.values, expected.weights]):
                raise StageError(
                    f"{name} on {dataset}, seed {cell.seed}: rows `{other.row}` and `{row}` share"
                    f" {column.determined_by} but show {column.shown(expected.by_seed()[0])} and"
                    f" {column.shown(shown.by_seed()[0])}; remove {other.stages[column.role].folder} and"
                    f" {cell.stages[column.role].folder} from the store and run again"
                )
