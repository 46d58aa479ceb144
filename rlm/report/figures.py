"""The plots of a report, each with a legend, a description and its values."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlm.errors import StageError
from rlm.report.content import Grid
from rlm.report.curves import Curve, curves, trained_stages
from rlm.report.plots import Axis, Bar, Panel, bars, heat, lines
from rlm.report.results import read_written
from rlm.report.summary import Summary
from rlm.stage_record import read_json
from rlm.stages.columns import Against, Column, ColumnCurve, HeatMap, Logged, Plot
from rlm.stages.models import MODELS
from rlm.stages.store import stage_folder

_STEPS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Drawn:
    """A plot and what stands around it."""

    title: str
    svg: str
    caption: str
    values: list[Grid]
    legend: list[tuple[int, str]] = field(default_factory=list)
    """Place among the table's rows, whose colour it has, and text."""


def figures(summary: Summary) -> Iterator[Drawn]:
    """All plots for which there are results."""
    table = summary.table
    columns = [table.column(name) for name in table.columns]
    for dataset in table.datasets:
        suffix = f" on {dataset}" if len(table.datasets) > 1 else ""
        for column in columns:
            if not column.setting:
                yield from _bars(summary, dataset, column, suffix)
        for against in MODELS[table.model].against:
            yield from _against(summary, dataset, against, suffix)
        for heat_map in MODELS[table.model].heat_maps:
            yield from _heat_map(summary, dataset, heat_map, suffix)
        for curve in MODELS[table.model].curves(next(iter(table.rows.values()))):
            yield from _over_number(summary, dataset, curve, suffix)
        for column in columns:
            if column.over_steps is not None:
                yield from _lines(summary, dataset, column.over_steps, suffix)
    for plot in MODELS[table.model].plots:
        yield from _on_each(summary, plot)
    for name in trained_stages(summary):
        panel = Logged(stage=name, metric="loss", title="loss")
        yield from _on_each(summary, Plot(title=f"Loss of {name.replace('_', ' ')}", panels=(panel,)))


def _on_each(summary: Summary, plot: Plot) -> Iterator[Drawn]:
    """A plot for each data set; one for all of them, where its stages know nothing of data sets."""
    datasets = summary.table.datasets
    names = {panel.stage for panel in plot.panels}
    stages = {
        dataset: {
            stage.key
            for cell in summary.cells
            if cell.dataset == dataset
            for stage in cell.needed().values()
            if stage.name in names
        }
        for dataset in datasets
    }
    apart = any(stages[dataset] != stages[datasets[0]] for dataset in datasets)
    for dataset in datasets if apart else datasets[:1]:
        yield from _lines(summary, dataset, plot, f" on {dataset}" if apart else "")


def _bars(summary: Summary, dataset: str, column: Column, suffix: str) -> Iterator[Drawn]:
    drawn = []
    for place, row in enumerate(summary.table.rows):
        scores = summary.results.scores.get((row, dataset, column.name))
        if scores is not None:
            found, seeds = summary.estimates[row, dataset, column.name], scores.sample.by_seed().tolist()
            drawn.append(Bar(place, row, found, seeds, summary.reported(row, dataset, column.name)))
    if not drawn:
        return
    unit = f", in {column.unit}" if column.unit else ""
    keys = [f"bar: mean{unit}", f"line: 95 % interval over {column.units}"]
    keys += ["dots: seeds"] if any(len(bar.seeds) > 1 for bar in drawn) else []
    keys += [f"diamond: {summary.table.reported_source}"] if any(bar.reported is not None for bar in drawn) else []
    figures = [
        [
            column.shown(bar.estimate.mean),
            f"{column.shown(bar.estimate.low)} to {column.shown(bar.estimate.high)}",
            ", ".join(map(column.shown, bar.seeds)),
        ]
        for bar in drawn
    ]
    title = column.label[0].upper() + column.label[1:] + suffix
    description = "; ".join(f"{bar.name}: {column.shown(bar.estimate.mean)}" for bar in drawn)
    yield Drawn(
        title=title,
        svg=bars(drawn, column, title, description, _prefix(title)),
        caption="; ".join(keys),
        values=[
            Grid(
                f"Values in {column.unit}" if column.unit else "Values",
                ["row", "mean", "95 % interval", "by seed"],
                [[bar.name, *line] for bar, line in zip(drawn, figures, strict=True)],
            )
        ],
    )


def _heat_map(summary: Summary, dataset: str, wanted: HeatMap, suffix: str) -> Iterator[Drawn]:
    for row, path in written(summary, dataset, wanted.role, wanted.file):
        try:
            found = read_json(path)
        except (OSError, ValueError) as error:
            raise StageError(
                f"{path}: cannot be read ({error}); remove the folder and `rlm run` makes it again"
            ) from None
        (xs, ys, figures), *_ = read_written(path, lambda value: _rectangle(*wanted.read(value)), [found])
        if len(xs) > 1 and len(ys) > 1:
            shown = [[f"{figure:.{wanted.decimals}f}" for figure in line] for line in figures]
            x_names, y_names = ([f"{number:.3g}" for number in numbers] for numbers in (xs, ys))
            title = f"{wanted.title}{suffix}"
            best = (min if wanted.better == "lower" else max)(figure for line in figures for figure in line)
            description = f"{row}: best {best:.{wanted.decimals}f}"
            svg = heat(
                figures, shown, (wanted.x_label, x_names), (wanted.y_label, y_names), title, description, _prefix(title)
            )
            grid = [[name, *line] for name, line in zip(y_names, shown, strict=True)]
            values = Grid(f"{wanted.y_label} by {wanted.x_label}", [wanted.y_label, *x_names], grid)
            yield Drawn(title=title, svg=svg, caption=description, values=[values])
            return


def _rectangle(xs: Any, ys: Any, figures: Any) -> tuple[list[float], list[float], list[list[float]]]:
    """Numbers, [y][x].

    Raises:
        ValueError, TypeError: they are not.
    """
    rows = [[float(figure) for figure in row] for row in figures]
    if len(rows) != len(ys) or any(len(row) != len(xs) for row in rows):
        raise ValueError(f"not {len(ys)} x {len(xs)} figures")
    return [float(x) for x in xs], [float(y) for y in ys], rows


def written(summary: Summary, dataset: str, role: str, file: str) -> Iterator[tuple[str, Path]]:
    """Rows whose finished stage wrote a file, and the file; of the first seed."""
    rows = set()
    for cell in summary.cells:
        stage = cell.stages.get(role)
        if cell.dataset != dataset or cell.row in rows or stage is None or stage.key not in summary.results.finished:
            continue
        rows.add(cell.row)
        path = stage_folder(summary.store, stage) / file
        if path.exists():
            yield cell.row, path


def _over_number(summary: Summary, dataset: str, curve: ColumnCurve, suffix: str) -> Iterator[Drawn]:
    """What the rows measure in the table's columns of the curve."""
    points = [(number, summary.table.column(name)) for number, name in curve.points if name in summary.table.columns]
    drawn, shown = [], []
    for row in summary.table.rows:
        found = [
            (number, column, estimate)
            for number, column in points
            if (estimate := summary.estimates.get((row, dataset, column.name))) is not None
        ]
        if len(found) > 1:
            numbers, means = ([number for number, _, _ in found], [estimate.mean for _, _, estimate in found])
            drawn.append(Curve((row,), np.array(numbers), np.array(means)))
            at = {number: column.shown(estimate.mean) for number, column, estimate in found}
            shown.append([row, *(at.get(number, "") for number, _ in points)])
    if drawn:
        panel = Panel(points[0][1].unit or points[0][1].label, drawn, marked=True)
        values = Grid(
            f"{panel.title} over the {curve.x_label}", ["row", *(f"{number:g}" for number, _ in points)], shown
        )
        axis = Axis(curve.x_label, whole=False, log2=curve.log2)
        yield _drawn(summary, curve.title + suffix, [panel], [values], axis)


def _against(summary: Summary, dataset: str, wanted: Against, suffix: str) -> Iterator[Drawn]:
    """A point for each row."""
    table = summary.table
    if not {wanted.x, wanted.y} <= set(table.columns):
        return
    x, y = table.column(wanted.x), table.column(wanted.y)
    drawn, shown = [], []
    for row in table.rows:
        across, up = (summary.estimates.get((row, dataset, column.name)) for column in (x, y))
        if across is not None and up is not None and across.mean > 0:
            drawn.append(Curve((row,), np.array([across.mean]), np.array([up.mean])))
            shown.append([row, x.shown(across.mean), y.shown(up.mean)])
    if len({float(curve.steps[0]) for curve in drawn}) > 1:
        values = Grid(f"{y.label} by {x.label}", ["row", x.label, y.label], shown)
        axis = Axis(x.label, whole=False, log2=True)
        yield _drawn(summary, wanted.title + suffix, [Panel(y.label, drawn, marked=True)], [values], axis)


def _lines(summary: Summary, dataset: str, plot: Plot, suffix: str) -> Iterator[Drawn]:
    panels = [
        Panel(logged.title, found, logged.marked)
        for logged in plot.panels
        if (found := curves(summary, dataset, logged.stage, logged.metric))
    ]
    if panels:
        yield _drawn(summary, plot.title + suffix, panels, [_values(panel) for panel in panels], Axis())


def _drawn(summary: Summary, title: str, panels: list[Panel], values: list[Grid], axis: Axis) -> Drawn:
    order = list(summary.table.rows)
    sharing = dict.fromkeys(curve.rows for panel in panels for curve in panel.curves)
    described = [
        f"{panel.title}, {curve.rows[0]}: from {curve.values[0]:.3g} to {curve.values[-1]:.3g}"
        for panel in panels
        for curve in panel.curves
    ]
    return Drawn(
        title=title,
        svg=lines(panels, order, title, "; ".join(described), _prefix(title), axis),
        caption="Mean over seeds." if len(summary.table.seeds) > 1 else "",
        values=values,
        legend=sorted(
            (order.index(rows[0]), "all rows" if rows == tuple(order) else "; ".join(rows)) for rows in sharing
        ),
    )


def _values(panel: Panel) -> Grid:
    """Each curve at a few of its steps."""
    steps = np.unique(np.concatenate([curve.steps for curve in panel.curves]))
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, _STEPS_SHOWN).round().astype(int))]

    def at(curve: Curve, step: float) -> str:
        found = np.flatnonzero(curve.steps == step)
        return f"{curve.values[found[0]]:.3g}" if len(found) else ""

    shown = [[curve.rows[0], *(at(curve, step) for step in steps)] for curve in panel.curves]
    return Grid(panel.title, ["step", *(f"{step:g}" for step in steps)], shown)


def _prefix(title: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in title.lower())
