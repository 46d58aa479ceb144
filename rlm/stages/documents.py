"""Stage: whole documents, tokenised."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlm.data.document_records import read_documents
from rlm.data.documents import write_documents
from rlm.data.sources import Passage, read_passages
from rlm.data.tokenizer import make_tokenizer, open_tokenizer
from rlm.stages.stage import Context

REPORT_EVERY = 500  # documents


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes the documents with their tokenizer, which is the input's where there is one."""
    documents, data = config["documents"], context.runtime.data
    if "tokenizer" in inputs:
        tokenizer = open_tokenizer(inputs["tokenizer"] / "tokenizer")
    else:

        def texts() -> Iterator[str]:
            source = getattr(config["tokenizer"], "source", None)
            found = read_documents(documents, data) if source is None else read_passages(source, data)
            return (document.text for document in found)

        tokenizer = make_tokenizer(config["tokenizer"], texts, needs=())
    return write_documents(folder, _watched(read_documents(documents, data), context), tokenizer)


def _watched(documents: Iterator[Passage], context: Context) -> Iterator[Passage]:
    for done, document in enumerate(documents, 1):
        yield document
        if done % REPORT_EVERY == 0:
            context.progress(done, done)
