"""Reads the store: what each finished cell answers per question, what is missing, and what it cost."""

import functools
import json
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlm.errors import StageError
from rlm.stages.stage import Stage
from rlm.stages.store import Damaged, find_finished, stage_folder
from rlm.table import AblationTable, Cell, distinct_stages


@dataclass(frozen=True, slots=True)
class Source:
    """Where a column's values are."""

    role: str
    file: str
    value: Callable[[dict[str, Any], int], bool]
    """Of a line of the file and the column's number (0 without): is the question answered?"""


SOURCES = {
    "exact_match": Source("evaluate", "predictions.jsonl", lambda line, k: bool(line["exact_match"])),
    "recall@": Source("evaluate", "predictions.jsonl", lambda line, k: bool(line["retrieved"])),
    "zero_shot_recall@": Source("zero_shot", "ranks.jsonl", lambda line, k: 0 < (line["rank"] or 0) <= k),
}


@dataclass(frozen=True, slots=True)
class Scores:
    """A column of one row on one data set."""

    questions: tuple[str, ...]
    """Ids, in the order of the file."""
    seeds: tuple[int, ...]
    """The finished ones."""
    values: NDArray[np.float64]
    """0 or 100, [seeds, questions]."""
    stages: tuple[str, ...]
    """Keys of the stages that they come from, by seed."""

    def of(self, seeds: tuple[int, ...]) -> NDArray[np.float64]:
        """Mean over some seeds, percent, [questions]."""
        return self.values[[self.seeds.index(seed) for seed in seeds]].mean(axis=0)

    def stages_of(self, seeds: tuple[int, ...]) -> list[str]:
        """Keys of the stages of some seeds."""
        return [self.stages[self.seeds.index(seed)] for seed in seeds]


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
    for column in dict.fromkeys([*table.columns, *(trend.column for trend in table.trends)]):
        for row in table.rows:
            for dataset in table.datasets:
                mine = [cell for cell in cells if (cell.row, cell.dataset) == (row, dataset)]
                scores = _scores(column, mine, results, store)
                if scores is not None:
                    results.scores[row, dataset, column] = scores
    _assert_shared_retrievers_agree(cells, results)
    results.notes = list(dict.fromkeys(results.notes))
    return results


def source_of(column: str) -> tuple[Source, int]:
    """Where a column comes from, and its number."""
    head, at, number = column.partition("@")
    return SOURCES[head + at], int(number or 0)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSON Lines file that a stage wrote."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError:
                raise StageError(f"{path}:{number}: no JSON; remove the folder and `rlm run` makes it again") from None


def _absent(cell: Cell, finished: Container[str]) -> list[str]:
    """Roles that are still to be computed for the cell's unfinished leaves."""
    roles = {stage.key: role for role, stage in reversed(cell.stages.items())}
    unfinished = [role for role in cell.leaves if role in cell.stages and cell.stages[role].key not in finished]
    needed = Cell(
        row=cell.row, dataset=cell.dataset, seed=cell.seed, stages=cell.stages, leaves=tuple(unfinished)
    ).needed()
    return [roles.get(key, stage.name) for key, stage in needed.items() if key not in finished]


def _scores(column: str, cells: list[Cell], results: Results, store: Path) -> Scores | None:
    source, _ = source_of(column)
    found: dict[int, tuple[Stage, tuple[str, ...], NDArray[np.float64]]] = {}
    for cell in cells:
        stage = cell.stages[source.role]
        record = results.finished.get(stage.key)
        if record is None:
            continue
        path = stage_folder(store, stage) / source.file
        questions, values = _answered(path, path.stat().st_mtime_ns, column)
        if not questions or abs(values.mean() - record["metrics"][column]) > 1e-6:
            raise StageError(f"{path}: does not give the recorded {column} of {record['metrics'][column]}")
        found[cell.seed] = stage, questions, values
    if not found:
        return None
    if len({ids for _, ids, _ in found.values()}) > 1:
        raise StageError(f"{cells[0].row} on {cells[0].dataset}: the seeds answer different questions")
    return Scores(
        questions=next(iter(found.values()))[1],
        seeds=tuple(found),
        values=np.array([values for _, _, values in found.values()]),
        stages=tuple(stage.key for stage, _, _ in found.values()),
    )


# A table is printed and then written; rows share files.
@functools.cache
def _answered(path: Path, modified: int, column: str) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Ids and values of the questions in a file that was `modified` then (nanoseconds)."""
    source, number = source_of(column)
    lines = list(read_lines(path))
    return tuple(str(line["id"]) for line in lines), np.array([100.0 * source.value(line, number) for line in lines])


def _assert_shared_retrievers_agree(cells: list[Cell], results: Results) -> None:
    """The same retriever, index and questions give the same zero-shot recall, whatever else a row changes.

    Raises:
        StageError: they do not.
    """
    seen: dict[object, tuple[Cell, NDArray[np.float64]]] = {}
    for (row, dataset, column), scores in results.scores.items():
        source, _ = source_of(column)
        if source.role != "zero_shot":
            continue
        for cell in cells:
            if (cell.row, cell.dataset) != (row, dataset) or cell.seed not in scores.seeds:
                continue
            inputs = cell.stages[source.role].inputs
            same = column, scores.questions, frozenset((role, stage.key) for role, stage in inputs.items())
            values = scores.of((cell.seed,))
            other, expected = seen.setdefault(same, (cell, values))
            if not np.array_equal(values, expected):
                raise StageError(
                    f"{column} on {dataset}, seed {cell.seed}: rows `{other.row}` and `{row}` share a retriever but"
                    f" show {expected.mean():.2f} and {values.mean():.2f}; remove {other.stages[source.role].folder}"
                    f" and {cell.stages[source.role].folder} from the store and run again"
                )
