"""The plots of a report, each with a legend, a description and its values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from rlm.report.content import Grid, label
from rlm.report.curves import Curve, recall_curves, trained_stages, training_curves
from rlm.report.plots import Bar, Panel, bars, lines
from rlm.report.results import source_of
from rlm.report.summary import Summary

_REFRESH = {
    "index_age": "age of the index, in optimizer steps",
    "agreement": "agreement: share of the top k still found",
    "churn": "churn: share of the top k changed by a swap",
}
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
    datasets = summary.table.datasets
    for dataset in datasets:
        suffix = f" on {dataset}" if len(datasets) > 1 else ""
        for column in summary.table.columns:
            yield from _bars(summary, dataset, column, suffix)
        for source, k in map(source_of, summary.table.columns):
            if source.role == "zero_shot":
                panel = Panel("percent of questions", recall_curves(summary, dataset, k), marked=True)
                yield from _lines(summary, f"Zero-shot recall@{k} over pre-training{suffix}", [panel])
    first = datasets[0]  # Nothing before fine-tuning knows of data sets.
    panels = [
        Panel(words, training_curves(summary, first, "pretrain", name), marked=name == "churn")
        for name, words in _REFRESH.items()
    ]
    yield from _lines(summary, "How stale the index is", panels)
    for name in trained_stages(summary):
        for dataset in datasets if name == "finetune" else [first]:
            suffix = f" on {dataset}" if name == "finetune" and len(datasets) > 1 else ""
            panel = Panel("loss", training_curves(summary, dataset, name, "loss"))
            yield from _lines(summary, f"Loss of {name.replace('_', ' ')}{suffix}", [panel])


def _bars(summary: Summary, dataset: str, column: str, suffix: str) -> Iterator[Drawn]:
    drawn = []
    for place, row in enumerate(summary.table.rows):
        scores = summary.results.scores.get((row, dataset, column))
        if scores is not None:
            found, seeds = summary.estimates[row, dataset, column], scores.values.mean(axis=1).tolist()
            drawn.append(Bar(place, row, found, seeds, summary.reported(row, dataset, column)))
    if not drawn:
        return
    keys = ["bar: mean, in percent", "line: 95 % interval over questions"]
    keys += ["dots: seeds"] if any(len(bar.seeds) > 1 for bar in drawn) else []
    keys += [f"diamond: {summary.table.reported_source}"] if any(bar.reported is not None for bar in drawn) else []
    figures = [
        [f"{bar.estimate.mean:.1f}", f"{bar.estimate.low:.1f} to {bar.estimate.high:.1f}", _joined(bar.seeds)]
        for bar in drawn
    ]
    title = label(column)
    title = title[0].upper() + title[1:] + suffix
    yield Drawn(
        title=title,
        svg=bars(drawn, title, "; ".join(f"{bar.name}: {bar.estimate.mean:.1f}" for bar in drawn), _prefix(title)),
        caption="; ".join(keys),
        values=[
            Grid(
                "Values in percent",
                ["row", "mean", "95 % interval", "by seed"],
                [[bar.name, *line] for bar, line in zip(drawn, figures, strict=True)],
            )
        ],
    )


def _lines(summary: Summary, title: str, panels: Sequence[Panel]) -> Iterator[Drawn]:
    panels = [panel for panel in panels if panel.curves]
    if not panels:
        return
    order = list(summary.table.rows)
    sharing = dict.fromkeys(curve.rows for panel in panels for curve in panel.curves)
    described = [
        f"{panel.title}, {curve.rows[0]}: from {curve.values[0]:.3g} to {curve.values[-1]:.3g}"
        for panel in panels
        for curve in panel.curves
    ]
    yield Drawn(
        title=title,
        svg=lines(panels, order, title, "; ".join(described), _prefix(title)),
        caption="Mean over seeds." if len(summary.table.seeds) > 1 else "",
        values=[_values(panel) for panel in panels],
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


def _joined(figures: Sequence[float]) -> str:
    return ", ".join(f"{figure:.1f}" for figure in figures)


def _prefix(title: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in title.lower())
