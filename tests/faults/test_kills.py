"""Table 2 killed at random moments, at least thirty times, started again each time, against an undisturbed run.

`python -m nox -s faults`; RLM_KILLS and RLM_KILLS_SEED choose how often and when.
"""

import os
import random
from collections import Counter
from pathlib import Path

from tests.faults.killer import MOMENTS, Attempt, Killer, finished, predictions, results, table

KILLS = int(os.environ.get("RLM_KILLS", "30"))
SEED = int(os.environ.get("RLM_KILLS_SEED", "0"))
COMMON = ("--scale", "micro", "--rows", "REALM,Baseline (ORQA)")
# Dropout, because what a step draws must not depend on where a run was stopped.
SETTINGS = (
    *("--set", "pretrain.keep_snapshots=false", "--set", "encoder.dropout=0.1"),
    *("--set", "tokenizer.source.entities=150"),
)
SYNC = (*COMMON, *SETTINGS, "--set", "pretrain.index_refresh.every=2")
ASYNC = (*COMMON, *SETTINGS, "--set", "pretrain.index_refresh={every: 4, mode: async, swap_after: 2, probes: 8}")


def test_run__ends_with_the_undisturbed_table_however_often_it_is_killed(workplace: Path) -> None:
    draw = random.Random(SEED)
    kills: Counter[str] = Counter()
    rounds = 0
    undisturbed: dict[tuple[str, ...], Path] = {}
    while kills.total() < KILLS:
        assert rounds < 2 + KILLS // 8, f"too few kills hit: {kills}"
        mode = (SYNC, ASYNC)[rounds % 2]
        if mode not in undisturbed:
            undisturbed[mode] = workplace / f"undisturbed-{rounds}"
            Attempt(workplace, (*mode, "--store", undisturbed[mode].name)).wait()
        expected = undisturbed[mode]
        store = workplace / f"killed-{rounds}"
        options = (*mode, "--store", store.name)
        killer = Killer(workplace, store, options, set(finished(expected)), draw)
        for moment in MOMENTS:
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
