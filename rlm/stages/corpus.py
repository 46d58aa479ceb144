"""Stage: a corpus, packed into passages and tokenised."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlm.data.corpus import write_corpus
from rlm.data.sources import Passage, read_passages
from rlm.data.tokenizer import make_tokenizer, open_tokenizer
from rlm.stages.stage import Context

REPORT_EVERY = 5_000  # records


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes the corpus with its tokenizer, which is the input's where there is one."""
    corpus, data = config["corpus"], context.runtime.data
    if "tokenizer" in inputs:
        tokenizer = open_tokenizer(inputs["tokenizer"] / "tokenizer")
    else:

        def texts() -> Iterator[str]:
            source = getattr(config["tokenizer"], "source", None) or corpus.source
            return (text for record in read_passages(source, data) for text in (record.title, record.text))

        tokenizer = make_tokenizer(config["tokenizer"], texts)
    return write_corpus(folder, _watched(read_passages(corpus.source, data), corpus.source, context), tokenizer, corpus)


def _watched(records: Iterator[Passage], source: Any, context: Context) -> Iterator[Passage]:
    total = getattr(source, "limit", None) or 0
    for done, record in enumerate(records, 1):
        yield record
        if done % REPORT_EVERY == 0:
            context.progress(done, max(total, done))
