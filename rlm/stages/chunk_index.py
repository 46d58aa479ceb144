"""Stage: the chunks of a retrieval corpus, embedded and indexed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlm.config import digest, identity
from rlm.data.chunk_pieces import ChunkPieces, encoder_special_tokens, own_tokens
from rlm.data.chunks import Chunks
from rlm.data.config import PretrainedTokenizer
from rlm.data.documents import Documents
from rlm.data.tokenizer import make_tokenizer, open_tokenizer
from rlm.data.tokens import Ragged
from rlm.errors import ConfigError
from rlm.retrieval.chunk_encoder import ChunkEmbedder, build_chunk_encoder, write_embeddings
from rlm.retrieval.config import Bm25, ChunkEncoderConfig, ChunkIndexConfig, PretrainedEncoder
from rlm.retrieval.encoder import DualEncoder
from rlm.retrieval.index import Search, build_index, open_index
from rlm.retrieval.neighbours import dense_search, sparse_search
from rlm.retrieval.sparse import Bm25Index
from rlm.stages.stage import Context
from rlm.stages.training import accelerator, seed_everything

DESCRIPTION = "chunk_index.json"


def run(config: ChunkIndexConfig, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `index/`, the encoder and its tokenizer, and what they were made from; an interrupted run goes on."""
    documents = Documents.open(inputs["corpus"])
    chunks, index = Chunks(documents, config.chunk_tokens), folder / "index"
    device = accelerator(context.runtime)
    keys = {"corpus": inputs["corpus"].name, "index": digest(identity(config.index))}
    if isinstance(config.index, Bm25):
        Bm25Index(own_tokens(chunks, 0, len(chunks)), config.index).save(index)
        keys["encoder"] = "none (bm25)"
    else:
        if config.encoder is None:
            raise ConfigError("the chunk index has no `encoder`; name one, or set `index: {kind: bm25}`")
        index.mkdir(exist_ok=True)
        encoder = _write_encoder(folder, config.encoder, documents, context)
        context.all_read()
        embedder, _ = open_embedder(encoder, chunks, device)
        path, mark = index / "embeddings.npy", folder / "embedded.txt"
        write_embeddings(path, mark, embedder, len(chunks), context.progress)
        build_index(config.index, np.load(path, mmap_mode="c"), device, whole=True).save(index)
        mark.unlink()
        keys["encoder"] = digest(identity(config.encoder))
    described = {"chunk_tokens": config.chunk_tokens, "chunks": len(chunks), "keys": keys}
    (folder / DESCRIPTION).write_text(json.dumps(described), encoding="utf-8")
    return {"chunks": len(chunks), "tokens_per_chunk": len(documents.tokens.values) / len(chunks)}


def describe(index: Path, corpus: Path) -> dict[str, Any]:
    """What a chunk index was made of: `chunk_tokens`, `chunks`, and `keys` by role.

    Raises:
        ValueError: it is of another corpus.
    """
    described: dict[str, Any] = json.loads((index / DESCRIPTION).read_text(encoding="utf-8"))
    if described["keys"]["corpus"] != corpus.name:
        raise ValueError(f"{index}: an index of {described['keys']['corpus']}, not of {corpus.name}")
    return described


def _write_encoder(folder: Path, config: ChunkEncoderConfig, documents: Documents, context: Context) -> Path:
    """The encoder's weights and tokenizer, drawn or read once: what an interrupted run goes on with."""
    finished, part = folder / "encoder", folder / "encoder.tmp"
    if not finished.is_dir():
        shutil.rmtree(part, ignore_errors=True)
        tokenizer = documents.tokenizer
        if isinstance(config.encoder, PretrainedEncoder):
            named = PretrainedTokenizer(name=config.encoder.name, revision=config.encoder.revision)
            tokenizer = make_tokenizer(named, list)
        seed_everything(context)
        build_chunk_encoder(config, len(tokenizer)).save(part)
        tokenizer.save_pretrained(part / "tokenizer")
        part.rename(finished)
    return finished


def open_embedder(encoder: Path, chunks: Chunks, device: str) -> tuple[ChunkEmbedder, ChunkPieces]:
    """Embeds chunks of any documents with the encoder of a chunk index, its folder `encoder/`; and what it reads."""
    tokenizer = open_tokenizer(encoder / "tokenizer")
    special = encoder_special_tokens(tokenizer, chunks.documents.start, chunks.documents.pad)
    pieces = ChunkPieces(chunks, tokenizer)
    return ChunkEmbedder(DualEncoder.load(encoder).to(device), pieces, special), pieces


def open_search(folder: Path, chunks: Chunks, device: str) -> Callable[[Ragged], Search]:
    """The search of a finished chunk index for rows of tokens, start tokens left out.

    Args:
        folder: of the chunk index.
        chunks: of documents with the tokenizer that the rows are of.
        device: of encoder and index.
    """
    index = folder / "index"
    if (index / "bm25.json").exists():
        sparse = Bm25Index.open(index)
        return lambda own: sparse_search(sparse, own)
    dense = open_index(index, device)
    embedder, pieces = open_embedder(folder / "encoder", chunks, device)
    return lambda own: dense_search(dense, embedder.embed(pieces.of(own)))
