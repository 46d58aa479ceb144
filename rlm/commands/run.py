"""`rlm run`: computes what is missing and prints the table."""

import argparse
import sys

from rlm.commands.plan import make_plan, print_plan, runtime_of
from rlm.launch import Event, LocalPool, log_file, run_stages
from rlm.stages.store import prepare_store


def main(options: argparse.Namespace) -> int:
    """Run the table."""
    if options.dry_run:
        print_plan(make_plan(options), options.store)
        return 0
    plan = make_plan(options, hashes=True)
    prepare_store(options.store)
    runtime = runtime_of(options)

    def watch(event: Event) -> None:
        print(event.kind, plan.stages[event.key].folder, dict(event.data), flush=True)

    launcher = LocalPool(options.store, runtime)
    try:
        outcome = run_stages(plan.stages, set(plan.finished), launcher, watch)
    finally:
        launcher.close()
    for key, message in outcome.failed.items():
        print(plan.stages[key].folder, message, log_file(plan.stages[key], options.store), file=sys.stderr)
    return 1 if outcome.failed else 0
