"""A run killed three times ends with the table of one that was not; `nox -s faults` kills more often."""

import random
import subprocess
from pathlib import Path

import pytest

from tests.faults.killer import Killer, Moment, predictions, results, table


@pytest.mark.slow
def test_run__ends_with_the_same_table_when_it_was_killed(
    finished: subprocess.CompletedProcess, workplace: Path
) -> None:
    options = ("--scale", "micro", "--rows", "REALM", "--store", "killed")
    killer = Killer(workplace, workplace / "killed", options, random.Random(0))
    hit = [killer.kill_at(Moment(name, within), total=11) for name, within in [("refresh", 1), ("evaluate", 0.2)]]
    hit.append(killer.kill_at(Moment("table", 0.5), total=11))
    assert all(hit), killer.kills
    killer.finish()
    undisturbed = workplace / "runs"
    assert predictions(killer.store).items() <= predictions(undisturbed).items()
    expected = results(undisturbed)
    assert [stage for stage, files in results(killer.store).items() if files != expected[stage]] == []
    assert table(workplace, options) == table(workplace, (*options[:-1], "runs"))
