"""Neighbours of chunks: their rate against the bare encoder's, and the peak of resident memory for a million of them.

The peer of `rate` gets everything for free: its own word pieces, sorted by length, in batches of the same size, weights
in pure bfloat16 where that is fast, no pooling, no search, no output. `memory` runs the stages themselves on generated
documents; the encoder is small, for memory does not depend on its layers, but its width is MiniLM's.

    python benchmarks/neighbours.py
    python benchmarks/neighbours.py rate --asked 500 --corpus 20000
    python benchmarks/neighbours.py memory --chunks 100000
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from rlm.config import Runtime
from rlm.data.config import DocumentsConfig, EncyclopediaSource, TrainedTokenizer
from rlm.data.tokens import Ragged, SpecialTokens, join
from rlm.retrieval.bfloat16 import has_fast_bfloat16
from rlm.retrieval.chunk_encoder import ChunkEmbedder, build_chunk_encoder
from rlm.retrieval.config import (
    ChunkEncoderConfig,
    ChunkIndexConfig,
    ExactIndex,
    NeighboursConfig,
    PretrainedEncoder,
    ScratchEncoder,
)
from rlm.retrieval.encoder import BATCH_TOKENS, embedding_copy, length_sorted_batches
from rlm.retrieval.index import build_index
from rlm.retrieval.neighbours import Origin, dense_search, write_neighbours
from rlm.stages import chunk_index, documents, neighbours

MINILM = PretrainedEncoder(name="sentence-transformers/all-MiniLM-L6-v2")
CHUNKS_PER_ENTITY = 2.17
ENTITIES_ASKED = 2_000
LIMIT = 3.0  # GB


def rate(options: argparse.Namespace) -> None:
    """Chunks per second, embedded, searched without their own documents and written, to the encoder alone."""
    rng, special = np.random.default_rng(0), SpecialTokens(cls=101, sep=102, pad=0, mask=103)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lengths = rng.normal(66, 6, options.asked).clip(20, 110).astype(int)
    pieces = Ragged.from_rows([rng.integers(1_000, 30_000, length) for length in lengths])
    encoder = build_chunk_encoder(ChunkEncoderConfig(encoder=MINILM), 30_522).to(device)
    embedder = ChunkEmbedder(encoder, lambda first, last: pieces.take(np.arange(first, last)), special)
    held = rng.standard_normal((options.corpus, encoder.dim)).astype(np.float32)
    held /= np.linalg.norm(held, axis=1, keepdims=True)
    index = build_index(ExactIndex(), held, device)
    # documents of ten chunks; those asked are among those searched
    corpus, text = (
        Origin(np.arange(0, count + 1, 10), np.arange(count // 10, dtype=np.uint64)[:, None])
        for count in (options.corpus // 10 * 10, options.asked // 10 * 10)
    )
    fast = embedding_copy(encoder).encoder
    batches = [
        tuple(torch.from_numpy(part).to(device) for part in (batch.ids, batch.mask, batch.segments))
        for rows in length_sorted_batches(pieces.lengths[: len(text)] + 2, BATCH_TOKENS)
        for batch in [join([pieces.take(rows)], special)]
    ]
    ratios = []
    for turn in range(options.rounds + 1):
        start = time.perf_counter()
        with torch.inference_mode():
            for ids, mask, segments in batches:
                fast(input_ids=ids, attention_mask=mask, token_type_ids=segments)
        if device.type == "cuda":
            torch.cuda.synchronize()
        alone = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            write_neighbours(Path(folder), text, corpus, 2, lambda a, b: dense_search(index, embedder(a, b)), {})
            ours = time.perf_counter() - start
        if turn:  # the first round warms up
            ratios.append(alone / ours)
            each = len(text)
            print(f"bare {each / alone:8,.1f} chunks/s   ours {each / ours:8,.1f}   ratio {ratios[-1]:.2f}")
    print(
        f"{device}, {torch.get_num_threads()} threads, bfloat16 {has_fast_bfloat16(device)}, {len(text)} chunks in "
        f"{len(corpus)}: median ratio {statistics.median(ratios):.2f}"
    )


def memory(options: argparse.Namespace) -> None:
    """Peak of resident memory, in GB, of the stages from documents to neighbours."""
    with tempfile.TemporaryDirectory() as name:
        folder, context = Path(name), _Quiet()
        sources = {
            "corpus": EncyclopediaSource(entities=round(options.chunks / CHUNKS_PER_ENTITY)),
            "text": EncyclopediaSource(entities=ENTITIES_ASKED, world_seed=1),
        }
        small = EncyclopediaSource(entities=2_000)
        inputs = {role: folder / f"documents-{role}" for role in sources} | {"index": folder / "chunk_index-0"}
        out = folder / "neighbours-0"
        for path in (*inputs.values(), out):
            path.mkdir()
        scratch = ScratchEncoder(layers=1, hidden_size=384, heads=2, max_positions=72)
        chunks = ChunkIndexConfig(encoder=ChunkEncoderConfig(encoder=scratch, max_tokens=72), chunk_tokens=64)
        for role, source in sources.items():
            config = {"documents": DocumentsConfig(source=source, join="by_id_prefix")}
            if role == "corpus":
                config |= {"tokenizer": TrainedTokenizer(source=small)}
            given = {} if role == "corpus" else {"tokenizer": inputs["corpus"]}
            _timed(role, lambda c=config, g=given, r=role: documents.run(c, g, inputs[r], context))
        _timed("chunk index", lambda: chunk_index.run(chunks, inputs, inputs["index"], context))
        _timed("neighbours", lambda: neighbours.run(NeighboursConfig(k=2), inputs, out, context))
        print(f"peak {peak():.2f} GB of {LIMIT:.0f}: {'held' if peak() < LIMIT else 'NOT HELD'}")


class _Quiet:
    """What stages may use, in a benchmark."""

    seed, threads, runtime = 0, torch.get_num_threads(), Runtime()

    def log(self, metrics, step) -> None: ...

    def progress(self, done, total, **shown) -> None: ...


def _timed(what: str, run) -> None:
    start = time.perf_counter()
    summary = run()
    shown = ", ".join(f"{name} {value:,.0f}" for name, value in summary.items())
    print(f"{what}: {time.perf_counter() - start:,.0f} s, peak {peak():.2f} GB ({shown})", flush=True)


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("rate", "memory"), help="default: both")
    parser.add_argument("--asked", type=int, default=2_000, help="chunks whose neighbours are computed")
    parser.add_argument("--corpus", type=int, default=100_000, help="chunks that are searched")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=1_000_000, help="of the corpus, for memory")
    options = parser.parse_args()
    for name, measure in (("memory", memory), ("rate", rate)):  # memory first: its peak is that of the process
        if options.what in (None, name):
            measure(options)


if __name__ == "__main__":
    main()
