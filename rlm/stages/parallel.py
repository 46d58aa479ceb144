"""Stage: pairs of sentences, tokenised."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlm.data.checkpoint_files import positions_of
from rlm.data.parallel import make_pair_tokenizer, read_pairs, write_pairs
from rlm.data.parallel_config import ParallelConfig
from rlm.data.phrasebook import Pair
from rlm.data.pretrained import load_config
from rlm.data.tokenizer import open_tokenizer
from rlm.models.translation_config import PretrainedTranslator
from rlm.stages.stage import Context

REPORT_EVERY = 5000  # pairs


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes the pairs with their tokenizer, which is the input's where there is one.

    Raises:
        ConfigError: what cannot be read, or is longer than the model reads.
    """
    texts: dict[str, ParallelConfig] = config["pairs"]
    read = itertools.count(1)

    def pairs_of(domain: str) -> Iterator[Pair]:
        """Where there are several domains, with their names before the ids."""
        for pair in read_pairs(texts[domain], context.runtime.data):
            yield pair._replace(id=f"{domain}/{pair.id}") if len(texts) > 1 else pair

    def sentences() -> Iterator[str]:
        for pair in itertools.chain.from_iterable(map(pairs_of, texts)):
            yield from (pair.source, pair.target)

    def watched(pairs: Iterator[Pair]) -> Iterator[Pair]:
        for pair in pairs:
            yield pair
            if (done := next(read)) % REPORT_EVERY == 0:
                context.progress(done, done)

    if "tokenizer" in inputs:
        tokenizer = open_tokenizer(inputs["tokenizer"] / "tokenizer")
    else:
        tokenizer = make_pair_tokenizer(config["tokenizer"], sentences)
    written = ((watched(pairs_of(domain)), pairs.longest) for domain, pairs in texts.items())
    return write_pairs(folder, written, tokenizer, _limit(config["reader"]))


def _limit(reader: int | PretrainedTranslator) -> int | None:
    """Tokens that the model reads at most; None where there is no limit."""
    if isinstance(reader, int):
        return reader
    config = load_config(reader, "model.name", "gives no model")
    return positions_of(config.to_dict())
