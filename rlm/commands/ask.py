"""`rlm ask`: answers a question and shows why."""

import argparse

from rlm.stages.runs import find_run


def main(options: argparse.Namespace) -> int:
    """Find the stage's folder, before torch is imported, and ask."""
    folder = find_run(options.store, options.run, ("finetune", "evaluate", "pretrain"))
    from rlm.stages.ask import ask

    ask(options.store, folder, options.question, options.passage, options.answer, options.top)
    return 0
