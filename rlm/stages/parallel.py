"""Stage: pairs of sentences, tokenised."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlm.data.parallel import make_pair_tokenizer, read_pairs, write_pairs
from rlm.data.phrasebook import Pair
from rlm.data.tokenizer import open_tokenizer
from rlm.stages.stage import Context

REPORT_EVERY = 5000  # pairs


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes the pairs with their tokenizer, which is the input's where there is one."""
    data = context.runtime.data
    if "tokenizer" in inputs:
        tokenizer = open_tokenizer(inputs["tokenizer"] / "tokenizer")
    else:
        tokenizer = make_pair_tokenizer(
            config["tokenizer"],
            lambda: (text for pair in _all(config, data) for text in (pair.source, pair.target)),
        )
    return write_pairs(folder, _watched(_all(config, data), context), tokenizer)


def _all(config: Any, data: Path | None) -> Iterator[Pair]:
    """The pairs of one text, or of several with the names of their domains before their ids."""
    several = len(config["pairs"]) > 1
    for name, pairs in config["pairs"].items():
        for pair in read_pairs(pairs, data):
            yield pair._replace(id=f"{name}/{pair.id}") if several else pair


def _watched(pairs: Iterator[Pair], context: Context) -> Iterator[Pair]:
    for done, pair in enumerate(pairs, 1):
        yield pair
        if done % REPORT_EVERY == 0:
            context.progress(done, done)
