"""Plots as SVG whose colours follow the page: light or dark, and safe for colour-blind readers."""

import io
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator

from rlm.report.curves import Curve
from rlm.report.statistics import Estimate
from rlm.stages.columns import Column

# By row: Okabe and Ito's colours, darkened until they stand out from white (3:1) or as light as a dark page needs.
LIGHT = ("#0072b2", "#d55e00", "#00845f", "#aa4499", "#8a6d00", "#332288", "#6b6b6b")
DARK = ("#56b4e9", "#ff9248", "#2cc7a0", "#e08fc4", "#f0e442", "#b3aefc", "#b8b8b8")
# Rows also differ by dashes, for those who see no colour: points on and off.
DASHES = ((), (5, 2), (1, 1.5), (6, 2, 1, 2))
# Matplotlib knows no variables: these colours stand for the page's own until the SVG is written.
_INK, _SERIES = "#fd0000", "#fe00{:02x}"
_WIDTH = 5.0
"""Inches: 360 points, so that text of 11 points has nearly that size on a phone."""
_COLOURED = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
_RC: Any = {"svg.fonttype": "none", "svg.hashsalt": "rlm", "font.size": 11, "axes.titlesize": 11}
_RC["text.parse_math"] = False  # a name with two $ is no formula


@dataclass(frozen=True, slots=True)
class Bar:
    """A row's mean with what is known of its spread."""

    row: int
    """Place among the table's rows."""
    name: str
    estimate: Estimate
    seeds: Sequence[float]
    """Mean of each seed."""
    reported: float | None


@dataclass(frozen=True, slots=True)
class Axis:
    """What curves are over."""

    label: str = "optimizer step"
    whole: bool = True
    """Whether it counts something."""
    log2: bool = False
    """Whether doublings are equally far apart; then the curves' own points are marked on it."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves on common axes."""

    title: str
    curves: Sequence[Curve]
    marked: bool = False
    """Whether each point is a measurement of its own, not one of a dense series."""


def bars(bars: Sequence[Bar], column: Column, title: str, description: str, prefix: str) -> str:
    """Horizontal bars, each under its name: means, 95 % intervals, seeds as dots, the paper's number as a diamond."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for y, bar in enumerate(bars):
            found = bar.estimate
            axes.barh(y, found.mean, height=0.34, color=_SERIES.format(bar.row % len(LIGHT)), alpha=0.45)
            axes.plot([found.low, found.high], [y, y], color=_INK, linewidth=1.5, marker="|", markersize=7)
            if len(bar.seeds) > 1:
                axes.plot(bar.seeds, [y + 0.24] * len(bar.seeds), ".", color=_INK, markersize=4)
            if bar.reported is not None:
                axes.plot(bar.reported, y, "D", markerfacecolor="none", markeredgecolor=_INK, markersize=7)
            axes.text(0, y - 0.24, textwrap.shorten(bar.name, 44, placeholder=" …"), va="bottom")
            axes.text(
                1, y - 0.24, column.shown(found.mean), va="bottom", ha="right", transform=axes.get_yaxis_transform()
            )
        axes.set_ylim(len(bars) - 0.5, -0.75)
        axes.set_yticks([])
        axes.spines.left.set_visible(False)
        axes.set_xlim(0, 1.04 * max(max(bar.estimate.high, bar.reported or 0, *bar.seeds) for bar in bars) or 1)
        axes.set_xlabel(column.unit or column.label)

    return _svg(draw, 0.75 + 0.5 * len(bars), title, description, prefix)


def short(number: float) -> str:
    """For the tick of an axis: 0.125, 12.5, 4096, 1.7M."""
    return f"{number:g}" if number < 1e4 else str(EngFormatter(places=1, sep="")(number))


def lines(panels: Sequence[Panel], order: Sequence[str], title: str, description: str, prefix: str, axis: Axis) -> str:
    """Panels under each other, over the same; `order` are the table's rows, which give the colours."""

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(grid, panels, strict=True):
            for curve in panel.curves:
                row = order.index(curve.rows[0])
                axes.plot(
                    curve.steps,
                    curve.values,
                    color=_SERIES.format(row % len(LIGHT)),
                    dashes=DASHES[row % len(DASHES)],
                    marker="o" if panel.marked or len(curve.steps) == 1 else "",
                    markersize=3,
                    linewidth=1.6,
                )
            axes.set_title(panel.title, loc="left")
            axes.margins(x=0.02)
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=axis.whole))
            if axis.log2:
                axes.set_xscale("log", base=2)
                points = sorted({point for curve in panel.curves for point in curve.steps.tolist()})
                axes.set_xticks(points, [short(point) for point in points])
        grid[-1].set_xlabel(axis.label)

    return _svg(draw, 0.5 + 1.75 * len(panels), title, description, prefix)


def heat(
    figures: Sequence[Sequence[float]],
    shown: Sequence[Sequence[str]],
    x: tuple[str, Sequence[str]],
    y: tuple[str, Sequence[str]],
    title: str,
    description: str,
    prefix: str,
) -> str:
    """Figures over two numbers, [y][x], as cells that are the fuller the lower the figure; `x` and `y`: label, numbers.

    Shades are by rank, so that one bad corner does not hide the rest.
    """
    ranks = {figure: place for place, figure in enumerate(sorted({cell for line in figures for cell in line}))}

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row, line in enumerate(figures):
            for column, cell in enumerate(line):
                alpha = 0.7 * (1 - ranks[cell] / max(1, len(ranks) - 1))
                axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=_SERIES.format(0), alpha=alpha))
                axes.text(column, row, shown[row][column], ha="center", va="center", fontsize=7)
        axes.set_xlim(-0.5, len(x[1]) - 0.5)
        axes.set_ylim(-0.5, len(y[1]) - 0.5)
        axes.set_xticks(range(len(x[1])), x[1])
        axes.set_yticks(range(len(y[1])), y[1])
        axes.set_xlabel(x[0])
        axes.set_ylabel(y[0])

    return _svg(draw, 0.75 + 0.4 * len(figures), title, description, prefix)


def swatch(row: int) -> str:
    """A row's line, to stand before its name in a legend."""
    dashes = " ".join(str(2 * part) for part in DASHES[row % len(DASHES)])
    return (
        '<svg class="swatch" viewBox="0 0 32 10" aria-hidden="true"><line x1="0" y1="5" x2="32" y2="5" stroke-width="3"'
        f' stroke="var(--series-{row % len(LIGHT)})" stroke-dasharray="{dashes}"/></svg>'
    )


def _svg(draw: Callable[[Figure], None], height: float, title: str, description: str, prefix: str) -> str:
    """The drawing as an element to stand inside a page, among others: every id begins with `prefix`."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # Not the reader's own style.
        matplotlib.rcParams.update(_RC | dict.fromkeys(_COLOURED, _INK))
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure)
        for axes in figure.axes:
            _plain(axes)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", text)
    text = text.replace(_INK, "currentColor")
    text = re.sub("#fe00([0-9a-f]{2})", lambda found: f"var(--series-{int(found[1], 16)})", text)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    opening = (
        f'<svg class="plot" role="img" aria-labelledby="{prefix}-title {prefix}-text" {view[0]}'
        ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{prefix}-title">{escape(title)}</title><desc id="{prefix}-text">{escape(description)}</desc>'
    )
    return opening + text[text.index(">") + 1 :].strip()


def _plain(axes: Axes) -> None:
    axes.patch.set_visible(False)
    axes.figure.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", color=_INK, alpha=0.15, linewidth=0.6)
    axes.set_axisbelow(True)
