"""Curves of columns over a number: the points there are, and what is said where a filter keeps nothing."""

import re
from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path

import pytest

from rlm.errors import StageError
from rlm.report import render
from rlm.report.figures import figures
from rlm.report.plots import Bar, bars, short
from rlm.report.statistics import Estimate
from rlm.report.summary import Summary, summarise
from rlm.stages.columns import Against, ColumnCurve, leakage_columns, leakage_curve
from rlm.stages.knn_lm_experiment import KNN_LM_HEAT_MAPS
from rlm.stages.models import MODELS
from rlm.stages.store import stage_folder
from rlm.table import Cell
from tests.fakes.language_model import finish, install, read_table
from tests.report.store import write_stage

THRESHOLDS = (25.0, 50.0, 100.0)
KEPT = {"bits_per_byte@25": 0.2, "bits_per_byte@50": 0.5, "bits_per_byte@100": 1.0}
"""Share of the documents' bytes."""
COLUMNS = (
    ("columns: [bits_per_byte, perplexity]", "columns: [bits_per_byte@25, bits_per_byte@50, bits_per_byte@100]"),
    ("  - bits_per_byte: two < one < Off\n  - perplexity: Off > two\n", "  - bits_per_byte@25: two < Off\n"),
    ("  two: {wiki: {bits_per_byte: 0.9876, perplexity: 12.3}}\n", ""),
)


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    install(monkeypatch)

    def change(**fields: object) -> None:
        monkeypatch.setitem(MODELS, "language_model", replace(MODELS["language_model"], **fields))

    change(
        columns=lambda e: leakage_columns(THRESHOLDS, role="perplexity"), curves=lambda e: (leakage_curve(THRESHOLDS),)
    )
    return change


def bits(cell: Cell, place: int) -> float:
    """Of a byte of the chunks that a threshold keeps: more neighbours help, and most where most is kept."""
    return 2.0 - 0.1 * place * cell.stages["train"].config["neighbours"] + 0.01 * cell.seed


def summary(tmp_path: Path, *edits: tuple[str, str], nothing: int = 0) -> Summary:
    """A table whose first thresholds keep nothing."""
    table, cells = read_table(tmp_path, *COLUMNS, *edits)
    finish(tmp_path / "store", cells)
    for cell in cells:
        sizes = [0.0 if place < nothing else 100 * kept for place, kept in enumerate(KEPT.values())]
        nats = [size * bits(cell, place) * log(2) for place, size in enumerate(sizes)]
        lines = [{"id": f"d{number}", "nats": nats, "bytes": sizes} for number in range(20)]
        figures = {name: bits(cell, place) for place, name in enumerate(KEPT) if sizes[place]}
        write_stage(tmp_path / "store", cell.stages["perplexity"], figures, {"leakage.jsonl": lines})
    return summarise(table, cells, tmp_path / "store")


def curve(found: Summary) -> list:
    return [drawn for drawn in figures(found) if drawn.title == "Bits per byte by overlap"]


def test_figures__draw_the_columns_of_a_curve_a_line_for_each_row(tmp_path: Path) -> None:
    (drawn,) = curve(summary(tmp_path))
    (values,) = drawn.values
    assert values.header == ["row", "25", "50", "100"]
    assert values.lines == [  # means of two seeds
        ["Off", "2.005", "2.005", "2.005"],
        ["one", "2.005", "1.905", "1.805"],
        ["two", "2.005", "1.805", "1.605"],
    ]
    assert [text for _, text in drawn.legend] == ["Off", "one", "two"]
    assert drawn.caption == "Mean over seeds."
    words = re.findall(r"<text[^>]*>([^<]*)</text>", drawn.svg)
    assert {"25", "50", "100", "bits/byte"} <= set(words), "the points themselves are marked"
    assert "largest overlap kept, percent of a chunk" in words


def test_figures__of_a_curve_have_doublings_equally_far_apart(tmp_path: Path) -> None:
    (drawn,) = curve(summary(tmp_path))
    ticks = [float(x) for x in re.findall(r'<g id="[^"]*-xtick_\d+">.*?<use [^>]*x="([\d.]+)"', drawn.svg, re.DOTALL)]
    assert ticks[1] - ticks[0] == pytest.approx(ticks[2] - ticks[1], abs=0.01)


GRIDS = ['{"weight": [0.1, 0.2], "k": [1, 2], "perplexity": [[[3, 4], [5, 6]], [[7, 8], [9, 10]]]}', "[1, 2]", "{}"]
GRIDS += [
    '{"weight": [0.1, 0.2], "k": [1, 2], "perplexity": [[[3], [4]]]}',
    '{"weight": 1, "k": 2, "perplexity": [[["x"]]]}',
]
GRIDS += [
    "{",
    "[" * 99_999,
    "\x00",
    '{"weight": [1, 2], "k": [1, 2], "perplexity": [[["x", 1], [1, 2]], [[2, 3], [2, 3]]]}',
]


@pytest.mark.parametrize("grid", GRIDS)
def test_figures__of_a_file_of_another_form_name_it(tmp_path: Path, model: Callable[..., None], grid: str) -> None:
    read = KNN_LM_HEAT_MAPS[0]
    model(heat_maps=(replace(read, role="perplexity"),))
    found = summary(tmp_path)
    for cell in found.cells:
        (stage_folder(tmp_path / "store", cell.stages["perplexity"]) / "grid.json").write_text(grid)
    if grid == GRIDS[0]:
        assert read.title in [drawn.title for drawn in figures(found)]
    else:
        with pytest.raises(StageError, match=r"grid\.json:?1?: .*`rlm run` makes it again"):
            list(figures(found))


def test_figures__draw_no_curve_of_one_column(tmp_path: Path) -> None:
    one = ("[bits_per_byte@25, bits_per_byte@50, bits_per_byte@100]", "[bits_per_byte@100]")
    assert curve(summary(tmp_path, one)) == []


def test_figures__over_another_number_need_no_doublings(tmp_path: Path, model: Callable[..., None]) -> None:
    points = ((0.0, "bits_per_byte@25"), (0.5, "bits_per_byte@100"))
    model(curves=lambda e: (ColumnCurve(title="Bits per byte by overlap", x_label="lambda", points=points),))
    (drawn,) = curve(summary(tmp_path))
    assert drawn.values[0].lines[2] == ["two", "2.005", "1.605"]
    assert re.search(r"<text[^>]*>lambda</text>", drawn.svg) and re.search(r"<text[^>]*>0\.[1-4]", drawn.svg)


def test_short__has_few_digits_of_large_numbers() -> None:
    given = {0.125: "0.125", 12.5: "12.5", 4096: "4096", 46_336: "46.3k", 1_717_525: "1.7M", 4_092_892: "4.1M"}
    assert {number: short(number) for number in given} == given


def test_figures__of_a_column_against_another_have_a_point_for_each_row(
    tmp_path: Path, model: Callable[..., None]
) -> None:
    def drawn(x: str) -> list[list[list[str]]]:
        model(against=(Against(title="Against", y="bits_per_byte@100", x=x),))
        return [each.values[0].lines for each in figures(summary(tmp_path)) if each.title == "Against"]

    assert drawn("bits_per_byte@50") == [
        [["Off", "2.005", "2.005"], ["one", "1.905", "1.805"], ["two", "1.805", "1.605"]]
    ]
    assert drawn("bits_per_byte@25") == []  # is the same in all rows
    assert drawn("perplexity") == []  # is not in the table


def test_report__where_a_filter_keeps_nothing_says_so(tmp_path: Path) -> None:
    found = summary(tmp_path, nothing=1)
    assert ("two", "wiki", "bits_per_byte@25") not in found.estimates
    assert "two on wiki: nothing to measure bits per byte at ≤ 25 % overlap on" in found.results.notes
    (trend,) = found.trends
    assert (trend.verdict, trend.pairs[0].reason) == ("undecided", "nothing to measure it on")
    (drawn,) = curve(found)
    assert drawn.values[0].lines[2] == ["two", "", "1.805", "1.605"]
    printed = render(found.table, found.cells, found.store, "latex")
    assert r"bits per byte at $\leq$ 25 \% overlap" in printed


def test_report__compares_no_rows_that_keep_other_chunks(tmp_path: Path) -> None:
    before = summary(tmp_path)
    assert ("two", "wiki", "bits_per_byte@50") in before.compared
    for cell in before.cells:
        if cell.row == "two":
            lines = [{"id": f"d{number}", "nats": [1.0] * 3, "bytes": [log(2)] * 3} for number in range(20)]
            write_stage(
                before.store, cell.stages["perplexity"], dict.fromkeys(KEPT, 1 / log(2) ** 2), {"leakage.jsonl": lines}
            )
    after = summarise(before.table, before.cells, before.store)
    assert ("two", "wiki", "bits_per_byte@50") not in after.compared
    assert (
        "two on wiki: other bytes than Off, so bits per byte at ≤ 50 % overlap is not compared" in after.results.notes
    )


def test_bars__of_a_name_with_two_dollars_are_no_formula() -> None:
    found = Estimate(mean=0.5, sd=None, low=0.4, high=0.6, n=10, seeds=1)
    drawn = bars(
        [Bar(0, r"$5 and \frac{ $", found, [0.5], None)], leakage_columns((100.0,), role="x")[0], "t", "d", "p"
    )
    assert r"$5 and \frac{ $" in drawn
