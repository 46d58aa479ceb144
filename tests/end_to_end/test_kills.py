"""A run killed three times ends with the table of one that was not; `nox -s faults` kills more often."""

import random
import subprocess
from pathlib import Path

import pytest

from rlm.table import load_table
from tests.end_to_end.workplace import TABLE
from tests.faults.killer import Killer, Moment, predictions, results, table


@pytest.mark.slow
def test_run__ends_with_the_same_table_when_it_was_killed(
    finished: subprocess.CompletedProcess, workplace: Path
) -> None:
    options = ("--scale", "micro", "--rows", "REALM", "--store", "killed")
    (cell,) = [c for c in load_table(workplace / TABLE, "micro").cells(lambda source: "") if c.row == "REALM"]
    stages = {stage.folder for stage in cell.needed().values()}
    killer = Killer(workplace, workplace / "killed", options, stages, random.Random(0))
    moments = [Moment("refresh", 0.3), Moment("evaluate", 0.2), Moment("reports", 0.1)]
    assert all([killer.kill_at(moment) for moment in moments]), killer.kills
    killer.finish()
    undisturbed = workplace / "runs"
    assert predictions(killer.store).items() <= predictions(undisturbed).items()
    expected = results(undisturbed)
    assert [stage for stage, files in results(killer.store).items() if files != expected[stage]] == []
    assert table(workplace, options) == table(workplace, (*options[:-1], "runs"))
