from pathlib import Path

import numpy as np

from rlm.report.curves import POINTS, curves, trained_stages
from rlm.report.summary import Summary, summarise
from rlm.table import AblationTable, Cell
from tests.report.store import finish, table_and_cells, write_stage

Finished = tuple[AblationTable, list[Cell], Path]


def _with_losses(tmp_path: Path, losses: list[list[tuple[int, float]]]) -> Summary:
    """A run of one row whose pre-training logged these, by seed."""
    table, cells = table_and_cells(range(len(losses)), rows=["REALM"])
    finish(tmp_path, cells)
    for cell, points in zip(cells, losses, strict=True):
        events = [{"step": step, "time": 0.0, "metrics": {"loss": loss}} for step, loss in points]
        write_stage(tmp_path, cell.stages["pretrain"], {}, {"events.jsonl": events})
    return summarise(table, cells, tmp_path)


def test_curves__average_the_seeds_at_their_common_steps(tmp_path: Path) -> None:
    summary = _with_losses(tmp_path, [[(10, 4.0), (20, 2.0), (30, 1.0)], [(10, 2.0), (20, 1.0)]])
    (curve,) = curves(summary, "encyclopedia", "pretrain", "loss")
    assert (curve.steps.tolist(), curve.values.tolist()) == ([10, 20], [3, 1.5])


def test_curves__take_the_later_value_of_a_step_that_was_done_twice(tmp_path: Path) -> None:
    summary = _with_losses(tmp_path, [[(10, 4.0), (20, 9.0), (20, 2.0), (30, float("nan"))]])
    (curve,) = curves(summary, "encyclopedia", "pretrain", "loss")
    assert (curve.steps.tolist(), curve.values.tolist()) == ([10, 20], [4, 2])


def test_curves__average_neighbours_when_there_are_many(tmp_path: Path) -> None:
    summary = _with_losses(tmp_path, [[(step, float(step)) for step in range(1000)]])
    (curve,) = curves(summary, "encyclopedia", "pretrain", "loss")
    assert len(curve.steps) == POINTS
    np.testing.assert_allclose(curve.values, curve.steps)
    assert (curve.steps[0], curve.steps[-1]) == (3, 996.5), "means of the first seven and the last six"


def test_curves__are_drawn_once_for_rows_that_share_stages(finished: Finished) -> None:
    summary = summarise(*finished)
    rows = [curve.rows for curve in curves(summary, "encyclopedia", "zero_shot", "recall@5")]
    assert rows == [
        ("REALM", "REALM retriever + baseline encoder"),
        ("REALM with random uniform masks",),
        ("REALM with random span masks",),
        ("30x stale MIPS",),
    ]
    (ict,) = curves(summary, "encyclopedia", "ict", "loss")
    assert ict.rows == tuple(summary.table.rows)


def test_trained_stages__are_those_with_a_loss(finished: Finished) -> None:
    assert set(trained_stages(summarise(*finished))) == {"ict", "warm_start", "pretrain", "finetune"}
