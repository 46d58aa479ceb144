"""Figures over steps, read from what stages logged."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlm.report.results import read_lines, read_written
from rlm.report.summary import Summary
from rlm.stages.store import stage_folder

POINTS = 150
"""The most points that a curve is drawn with; of more, neighbours are averaged."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure over steps, or over another number, averaged over seeds."""

    rows: tuple[str, ...]
    """All rows that share the stages it comes from."""
    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def trained_stages(summary: Summary) -> list[str]:
    """Names of the stages that logged a loss, in the order in which they run."""
    names = dict.fromkeys(stage.name for cell in summary.cells for stage in cell.needed().values())
    return [name for name in names if any(curves(summary, dataset, name, "loss") for dataset in summary.table.datasets)]


def curves(summary: Summary, dataset: str, name: str, metric: str) -> list[Curve]:
    """A metric that stages of this name logged, or measured at several steps."""
    rows: dict[tuple[str, ...], list[str]] = {}
    folders: dict[tuple[str, ...], list[Path]] = {}
    for row in summary.table.rows:
        stages = [
            stage
            for cell in summary.cells
            if (cell.row, cell.dataset) == (row, dataset)
            for stage in cell.needed().values()
            if stage.name == name and stage.key in summary.results.finished
        ]
        keys = tuple(stage.key for stage in stages)
        rows.setdefault(keys, []).append(row)
        folders[keys] = [stage_folder(summary.store, stage) for stage in stages]
    drawn = []
    for keys, sharing in rows.items():
        by_seed = [points for folder in folders[keys] if (points := _logged(folder).get(metric))]
        common = sorted(set.intersection(*map(set, by_seed))) if by_seed else []
        if common:
            means = np.array([[points[step] for step in common] for points in by_seed]).mean(axis=0)
            drawn.append(Curve(tuple(sharing), *_thinned(np.array(common, dtype=float), means)))
    return drawn


@functools.cache
def _logged(folder: Path) -> dict[str, dict[int, float]]:
    """Values by metric and step of a finished stage; of a step that a resumed stage did twice, the later."""
    metrics: dict[str, dict[int, float]] = {}
    for name in ("steps.jsonl", "events.jsonl"):
        path = folder / name
        lines = read_lines(path) if path.is_file() else ()
        for step, values in read_written(path, _of_step, lines):
            for metric, value in values.items():
                metrics.setdefault(metric, {})[step] = value
    return metrics


def _of_step(line: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
    return int(line["step"]), {n: float(v) for n, v in line.get("metrics", line).items() if isfinite(v)}


def _thinned(
    steps: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    parts = min(POINTS, len(steps))
    steps, values = (np.array([part.mean() for part in np.array_split(array, parts)]) for array in (steps, values))
    return steps, values
