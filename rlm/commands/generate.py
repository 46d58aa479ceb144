"""`rlm generate`: goes on from a prompt and shows the neighbours it read."""

import argparse

from rlm.stages.runs import find_run


def main(options: argparse.Namespace) -> int:
    """Find the stage's folder, before torch is imported, and generate."""
    folder = find_run(options.store, options.run, ("retro_train", "perplexity"))
    from rlm.models.generation import Sampling
    from rlm.stages.generate import generate_text

    sampling = Sampling(greedy=options.greedy, temperature=options.temperature, top_p=options.top_p)
    generate_text(options.store, folder, options.prompt, options.tokens, sampling, options.seed, options.neighbours)
    return 0
