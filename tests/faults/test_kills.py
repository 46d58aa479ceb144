"""Tables killed at random moments, at least thirty times, started again each time, against an undisturbed run.

`python -m nox -s faults`; RLM_KILLS and RLM_KILLS_SEED choose how often and when.
"""

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.killer import KNN_LM, KNN_MT, REALM, Attempt, Killer, Moment, finished, predictions, results, table

KILLS = int(os.environ.get("RLM_KILLS", "30"))
SEED = int(os.environ.get("RLM_KILLS_SEED", "0"))
# Dropout, because what a step draws must not depend on where a run was stopped.
SETTINGS = (
    *("--set", "pretrain.keep_snapshots=false", "--set", "encoder.dropout=0.1"),
    *("--set", "tokenizer.source.entities=150"),
)
TABLE2 = ("experiments/realm_table2.yaml", "--scale", "micro", "--rows", "REALM,Baseline (ORQA)", *SETTINGS)
SYNC = (*TABLE2, "--set", "pretrain.index_refresh.every=2")
ASYNC = (*TABLE2, "--set", "pretrain.index_refresh={every: 4, mode: async, swap_after: 2, probes: 8}")
SEARCH = ("experiments/knn_lm_search.yaml", "--scale", "micro")
JOINED = ("experiments/knn_lm_datastore.yaml", "--scale", "micro")
TRANSLATION = ("experiments/knn_mt.yaml", "--scale", "micro")
TRANSLATION_SEARCH = ("experiments/knn_mt_search.yaml", "--scale", "micro")


@pytest.mark.parametrize(
    ("modes", "moments"),
    [((SYNC, ASYNC), REALM), ((SEARCH, JOINED), KNN_LM), ((TRANSLATION, TRANSLATION_SEARCH), KNN_MT)],
    ids=["realm", "knn_lm", "knn_mt"],
)
def test_run__ends_with_the_undisturbed_table_however_often_it_is_killed(
    workplace: Path, modes: tuple[tuple[str, ...], ...], moments: tuple[Moment, ...], request: pytest.FixtureRequest
) -> None:
    draw = random.Random(SEED)
    kills: Counter[str] = Counter()
    rounds = 0
    undisturbed: dict[tuple[str, ...], Path] = {}
    name = request.node.callspec.id
    while kills.total() < KILLS:
        assert rounds < 2 + KILLS // 8, f"too few kills hit: {kills}"
        mode = modes[rounds % len(modes)]
        if mode not in undisturbed:
            undisturbed[mode] = workplace / f"undisturbed-{name}-{rounds}"
            Attempt(workplace, (*mode, "--store", undisturbed[mode].name)).wait()
        expected = undisturbed[mode]
        store = workplace / f"killed-{name}-{rounds}"
        options = (*mode, "--store", store.name)
        killer = Killer(workplace, store, options, set(finished(expected)), draw)
        for moment in moments:
            for _ in range(moment.count):
                if kills.total() + killer.kills.total() < KILLS:
                    killer.kill_at(moment)
        said = killer.finish()
        assert "stages failed" not in said
        assert predictions(store) == predictions(expected) != {}
        assert results(store) == results(expected)
        assert table(workplace, options) == table(workplace, (*mode, "--store", expected.name))
        kills += killer.kills
        rounds += 1
    told = ", ".join(f"{name} {count}" for name, count in kills.most_common())
    print(f"\n{kills.total()} kills in {rounds} stores (seed {SEED}): {told}")
