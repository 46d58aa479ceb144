from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rlm.report.statistics import holm
from rlm.report.summary import summarise
from rlm.table import AblationTable, Cell
from tests.report.conftest import RATES
from tests.report.store import answers, finish, table_and_cells

Finished = tuple[AblationTable, list[Cell], Path]
EM = "exact_match"


def _expected(row: str, seeds: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    return np.array([100.0 * answers(RATES[row], 400, seed) for seed in seeds])


def test_summarise__gives_mean_and_deviation_over_seeds(finished: Finished) -> None:
    summary = summarise(*finished)
    for row in ("REALM", "Baseline (ORQA)"):
        found, by_seed = summary.estimates[row, "encyclopedia", EM], _expected(row).mean(axis=1)
        assert found.mean == pytest.approx(by_seed.mean())
        assert found.sd == pytest.approx(np.std(by_seed, ddof=1))
        assert (found.n, found.seeds) == (400, 3)


def test_summarise__pairs_questions_over_the_seeds_that_both_rows_have(finished: Finished) -> None:
    summary = summarise(*finished)
    for row, seeds in (("Baseline (ORQA)", (0, 1, 2)), ("30x stale MIPS", (0, 1))):
        ours, theirs = _expected(row, seeds).mean(axis=0), _expected("REALM", seeds).mean(axis=0)
        compared = summary.compared[row, "encyclopedia", EM]
        assert compared.difference.mean == pytest.approx((ours - theirs).mean())
        assert compared.difference.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, abs=0.01)


def test_summarise__corrects_over_the_rows_of_a_column(finished: Finished) -> None:
    summary = summarise(*finished)
    rows = [row for row in RATES if row != "REALM"]
    for column, tested in ((EM, rows), ("zero_shot_recall@5", rows[1:])):
        compared = [summary.compared[row, "encyclopedia", column] for row in tested]
        assert [one.p_holm for one in compared] == holm([one.difference.p for one in compared])
    assert ("REALM", "encyclopedia", EM) not in summary.compared


def test_summarise__does_not_test_rows_that_show_the_baseline_s_own_stage(finished: Finished) -> None:
    compared = summarise(*finished).compared["REALM retriever + baseline encoder", "encyclopedia", "zero_shot_recall@5"]
    assert compared.p_holm is None and not compared.significant
    assert compared.difference.mean == 0


def test_summarise__compares_nothing_when_the_baseline_is_left_out(finished: Finished) -> None:
    _, _, store = finished
    table, cells = table_and_cells((0, 1, 2), rows=["Baseline (ORQA)", "30x stale MIPS"])
    summary = summarise(table, cells, store)
    assert summary.compared == {}
    assert len(summary.estimates) == 4


def test_trends__are_held_not_held_or_undecided(finished: Finished) -> None:
    verdicts = {(judged.column, judged.order): judged for judged in summarise(*finished).trends}
    masks = "REALM with random span masks", "REALM with random uniform masks"
    assert verdicts[EM, ("REALM", "Baseline (ORQA)")].verdict == "held"
    chain = verdicts[EM, ("REALM", *masks)]
    assert [pair.verdict for pair in chain.pairs] == ["held", "not held"], "span masks are the worse here"
    assert chain.verdict == "not held"
    assert [(pair.agree, pair.seeds) for pair in chain.pairs] == [(3, 3), (0, 3)]
    assert verdicts[EM, ("REALM", "30x stale MIPS")].pairs[0].seeds == 2


def test_trends__are_undecided_when_the_difference_is_within_chance(tmp_path: Path) -> None:
    table, cells = table_and_cells(rows=["REALM", "Baseline (ORQA)"])
    finish(tmp_path, cells, lambda cell: 0.41 if cell.row == "REALM" else 0.40, questions=60)
    judged = next(one for one in summarise(table, cells, tmp_path).trends if one.column == EM)
    (pair,) = judged.pairs
    assert pair.difference is not None and pair.difference.p > 0.05
    assert (judged.verdict, pair.reason) == ("undecided", "")


def test_trends__are_undecided_when_a_row_is_not_finished(tmp_path: Path) -> None:
    table, cells = table_and_cells()
    finish(tmp_path, cells, skip=lambda cell, name: cell.row == "Baseline (ORQA)" and name == "evaluate")
    judged = next(one for one in summarise(table, cells, tmp_path).trends if one.order[-1] == "Baseline (ORQA)")
    assert (judged.verdict, judged.pairs[0].reason) == ("undecided", "not finished")


def test_trends__say_so_when_rows_show_the_same_stages(finished: Finished) -> None:
    table, cells, store = finished
    order = ("REALM", "REALM retriever + baseline encoder")
    trend = replace(table.trends[0], column="zero_shot_recall@5", order=order)
    (judged,) = summarise(replace(table, trends=[trend]), cells, store).trends
    assert (judged.verdict, judged.pairs[0].reason) == ("undecided", "the same stages")


def test_cost__adds_up(finished: Finished) -> None:
    summary = summarise(*finished)
    by_row = [summary.cost(row).core_seconds for row in RATES]
    assert sum(by_row) == summary.cost().core_seconds
    assert summary.cost("30x stale MIPS").missing == 5
