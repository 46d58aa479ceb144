"""Stages that models of text share: documents, their chunks, and the chunks' neighbours (imports nothing heavy)."""

from collections.abc import Callable
from typing import Any

from rlm.data.config import DocumentsConfig, TextTokenizerConfig
from rlm.retrieval.config import (
    Bm25,
    ChunkIndexConfig,
    NeighboursConfig,
    ScratchEncoder,
)
from rlm.stages.checkpoint_checks import reads, width_of
from rlm.stages.checks import check_search
from rlm.stages.experiment import outside_content
from rlm.stages.stage import Stage


def documents_stage(
    documents: DocumentsConfig, tokenizer: TextTokenizerConfig | Stage, content: Callable[[Any], str]
) -> Stage:
    """Documents with a tokenizer of their own, or with that of another stage of documents."""
    digests = content(documents.source) + (content(documents.exclude) if documents.exclude is not None else "")
    if isinstance(tokenizer, Stage):
        return Stage(
            name="documents", config={"documents": documents}, inputs={"tokenizer": tokenizer}, content=digests
        )
    return Stage(
        name="documents",
        config={"documents": documents, "tokenizer": tokenizer},
        content=digests + outside_content(tokenizer, content),
    )


def chunk_index_stage(chunks: ChunkIndexConfig, corpus: Stage, content: Callable[[Any], str]) -> Stage:
    """The chunk index of a retrieval corpus."""
    encoder = None if chunks.encoder is None or isinstance(chunks.index, Bm25) else chunks.encoder.encoder
    return Stage(
        name="chunk_index",
        config=chunks,
        inputs={"corpus": corpus},
        seed=0 if isinstance(encoder, ScratchEncoder) else None,
        content="" if encoder is None else outside_content(encoder, content),
    )


def neighbours_stages(
    chunks: ChunkIndexConfig, neighbours: NeighboursConfig, text: Stage, corpus: Stage, content: Callable[[Any], str]
) -> tuple[Stage, Stage]:
    """The chunk index of a retrieval corpus, and the neighbours that the chunks of a text have in it."""
    index = chunk_index_stage(chunks, corpus, content)
    inputs = {"text": text, "corpus": corpus, "index": index}
    return index, Stage(name="neighbours", config=neighbours, inputs=inputs)


def check_documents(name: str, config: DocumentsConfig) -> list[str]:
    """Mistakes in one field of documents, as `rlm.stages.checks` words them."""
    mistakes = []
    low, high = config.part
    if not 0 <= low < high <= 1:
        mistakes.append(f"{name}.part: found {list(config.part)}; write two numbers, 0 <= from < to <= 1")
    if not 0 < config.fraction <= 1:
        mistakes.append(f"{name}.fraction: found {config.fraction}; write a share above 0, at most 1")
    return mistakes


def check_chunks(name: str, config: ChunkIndexConfig) -> list[str]:
    """Mistakes in the configuration of a chunk index."""
    if isinstance(config.index, Bm25):
        return []
    if config.encoder is None:
        missing = f"{name}.encoder: none; name one, or set `index: {{kind: bm25}}`"
        return [*check_search(f"{name}.index", config.index, None), missing]
    encoder, tokens = config.encoder.encoder, config.encoder.max_tokens
    width = encoder.hidden_size if isinstance(encoder, ScratchEncoder) else width_of(encoder)
    mistakes = check_search(f"{name}.index", config.index, width)
    if isinstance(encoder, ScratchEncoder) and encoder.hidden_size % encoder.heads:
        mistakes.append(
            f"{name}.encoder.encoder.hidden_size: {encoder.hidden_size} is no multiple of {encoder.heads} heads; change"
            " one of them"
        )
    positions = encoder.max_positions if isinstance(encoder, ScratchEncoder) else reads(encoder)
    if not 2 < tokens <= positions or tokens % 8:
        mistakes.append(
            f"{name}.encoder.max_tokens: found {tokens}; write a multiple of 8 of at most {positions}, what the encoder"
            " reads"
        )
    return mistakes


def check_windows(name: str, tokens: int, chunk_tokens: int, stride: int | None = None) -> list[str]:
    """Mistakes in the lengths of sequences, and in the stride of evaluation."""
    if tokens <= chunk_tokens:
        return [f"{name}: sequences of {tokens} tokens are not longer than one chunk of {chunk_tokens}; write more"]
    if stride is not None and (stride % chunk_tokens or not 0 < stride <= tokens):
        return [f"{name}: stride of {stride} tokens; write a multiple of the chunk, {chunk_tokens}, up to {tokens}"]
    return []
