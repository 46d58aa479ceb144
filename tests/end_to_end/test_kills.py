"""A run killed three times ends with the table of one that was not; `nox -s faults` kills more often."""

import random
from pathlib import Path

import pytest

from tests.end_to_end.workplace import TABLE
from tests.faults.killer import Attempt, Killer, Moment, finished, predictions, results, without_costs

SMALL = ("corpus.source", "pretraining_text.source", "tokenizer.source", "questions.encyclopedia.source")
SETTINGS = ["encoder.dropout=0.1", *(f"{source}.entities=80" for source in SMALL)]
OPTIONS = (TABLE, "--scale", "micro", "--rows", "REALM", *(word for setting in SETTINGS for word in ("--set", setting)))


def reports(store: Path) -> dict[str, str]:
    return {path.suffix: path.read_text() for path in (store / "tables").glob("*/micro.*")}


@pytest.mark.slow
def test_run__ends_with_the_same_table_when_it_was_killed(workplace: Path) -> None:
    undisturbed, store = workplace / "undisturbed", workplace / "killed"
    Attempt(workplace, (*OPTIONS, "--store", undisturbed.name)).wait()
    killer = Killer(workplace, store, (*OPTIONS, "--store", store.name), set(finished(undisturbed)), random.Random(0))
    moments = [Moment("refresh", 0.3), Moment("evaluate", 0.2), Moment("reports", 0.1)]
    assert all([killer.kill_at(moment) for moment in moments]), killer.kills
    killer.finish()
    assert predictions(store) == predictions(undisturbed) != {}
    assert results(store) == results(undisturbed)
    assert reports(store).keys() == reports(undisturbed).keys() == {".html", ".md", ".tex", ".csv"}
    assert without_costs(reports(store)[".csv"]) == without_costs(reports(undisturbed)[".csv"])
