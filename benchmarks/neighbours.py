"""Neighbours of chunks: their rate against the bare encoder's, and the peak of resident memory for a million of them.

The peer of `rate` gets everything for free: its own word pieces, sorted by length, in batches of the same size, weights
in pure bfloat16 where that is fast, no pooling, no search, no output. `memory` runs the stages themselves on generated
documents; the encoder is small, for memory does not depend on its layers, but its width is MiniLM's (`--width`).
`peer` embeds, indexes and self-searches chunks of 64 word pieces with MiniLM, as `retro-pytorch` 0.3.9 does: with
MiniLM in float32 and in bfloat16, and as it comes, with a BERT-base (of random weights) in float32.

    python benchmarks/neighbours.py
    python benchmarks/neighbours.py peer --peer PYTHON --out FILE.md
    python benchmarks/neighbours.py rate --asked 500 --corpus 20000
    python benchmarks/neighbours.py memory --chunks 100000
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel

from benchmarks.peer import Peer
from rlm.config import Runtime
from rlm.data.config import DocumentsConfig, EncyclopediaSource, TrainedTokenizer
from rlm.data.pretrained import locate
from rlm.data.tokens import Ragged, SpecialTokens, join
from rlm.launch import FEWER_KERNELS, KEEP_FREED_MEMORY
from rlm.retrieval.bfloat16 import has_fast_bfloat16
from rlm.retrieval.chunk_encoder import ChunkEmbedder, build_chunk_encoder, write_embeddings
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
SPECIAL = SpecialTokens(cls=101, sep=102, pad=0, mask=103)
CHUNKS_PER_ENTITY = 3.08
LIMIT = 3.0  # GB
LEAST = 0.8
"""Of the bare encoder's rate."""
LEAST_TO_PEER = 3.0


def rate(options: argparse.Namespace) -> list[str]:
    """Chunks per second, embedded, searched without their own documents and written, to the encoder alone."""
    rng = np.random.default_rng(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lengths = rng.normal(66, 6, options.asked).clip(20, 110).astype(int)
    pieces = Ragged.from_rows([rng.integers(1_000, 30_000, length) for length in lengths])
    encoder = build_chunk_encoder(ChunkEncoderConfig(encoder=MINILM), 30_522).to(device)
    embedder = ChunkEmbedder(encoder, lambda first, last: pieces.take(np.arange(first, last)), SPECIAL)
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
        for batch in [join([pieces.take(rows)], SPECIAL)]
    ]
    ratios = []
    lines = [
        f"{device}, bfloat16 {has_fast_bfloat16(device)}, {len(text):,} chunks searched for among {len(corpus):,}",
        "",
        "| round | bare encoder, chunks/s | ours | ratio | wanted |",
        "|--:|--:|--:|--:|--:|",
    ]
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
            cells = [f"{turn}", f"{each / alone:,.1f}", f"{each / ours:,.1f}", f"{ratios[-1]:.2f}", ""]
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, f"| median | | | {statistics.median(ratios):.2f} | {LEAST} |"]


def peer(options: argparse.Namespace) -> list[str]:
    """Chunks per second from word pieces to neighbours of all chunks, ours and the peer's."""
    rng, count, rates = np.random.default_rng(0), options.asked // 10 * 10, {}
    chunks, documents = rng.integers(1_000, 30_000, (count, 65)), np.repeat(np.arange(count // 10), 10)
    pieces = Ragged.from_rows(list(chunks[:, :64]))
    encoder = build_chunk_encoder(ChunkEncoderConfig(encoder=MINILM), 30_522)
    embedder = ChunkEmbedder(encoder, lambda first, last: pieces.take(np.arange(first, last)), SPECIAL)
    origin = Origin(np.arange(0, count + 1, 10), np.arange(count // 10, dtype=np.uint64)[:, None])

    def ours(folder: Path) -> None:
        write_embeddings(folder / "embeddings.npy", folder / "mark", embedder, count)
        held = np.load(folder / "embeddings.npy", mmap_mode="c")
        index = build_index(ExactIndex(), held, torch.device("cpu"), whole=True)
        write_neighbours(folder, origin, origin, 2, lambda a, b: dense_search(index, torch.from_numpy(held[a:b])), {})

    with Peer(options.peer, torch.get_num_threads()) as theirs, tempfile.TemporaryDirectory() as base:
        BertModel(BertConfig()).save_pretrained(base)
        minilm = locate(MINILM.name)
        peers = {
            "MiniLM, float32": (minilm, False),
            "MiniLM, bfloat16": (minilm, True),
            "BERT-base, float32": (base, False),
        }
        for turn in range(options.rounds + 1):
            with tempfile.TemporaryDirectory() as name:
                np.save(Path(name) / "chunks.npy", chunks)
                np.save(Path(name) / "documents.npy", documents)
                start = time.perf_counter()
                ours(Path(name))
                found: dict[object, float] = {"ours": time.perf_counter() - start}
                for which, (path, bf16) in peers.items():
                    answer = theirs("neighbours", folder=name, encoder=path, bf16=bf16)
                    found[which] = answer["seconds"]
                    found["encoder", which] = answer["encoder_seconds"]
            print(f"round {turn}: {found}", flush=True)
            for what, taken in found.items():
                rates.setdefault(what, []).extend([taken] * (turn > 0))  # the first round warms up
    lines = [
        f"{count:,} chunks, each searched for among all; medians of {options.rounds} rounds",
        "",
        "| peer's encoder | ours, chunks/s | peer | of its time, in the encoder | ratio | wanted |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for which in peers:
        ratio, share = (
            statistics.median(map(float.__truediv__, rates[over], rates[under]))
            for over, under in ((which, "ours"), (("encoder", which), which))
        )
        mine, other = (count / statistics.median(rates[what]) for what in ("ours", which))
        cells = [which, f"{mine:,.1f}", f"{other:,.1f}", f"{share:.0%}", f"{ratio:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {LEAST_TO_PEER} |")
    return lines


def memory(options: argparse.Namespace) -> list[str]:
    """Peak of resident memory, in GB, of the stages from documents to neighbours."""
    lines = ["| stage | seconds | peak so far, GB | |", "|---|--:|--:|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder, context = Path(name), _Quiet()
        sources = {
            "corpus": EncyclopediaSource(entities=round(options.chunks / CHUNKS_PER_ENTITY)),
            "text": EncyclopediaSource(entities=round(options.searched / CHUNKS_PER_ENTITY), world_seed=1),
        }
        small = EncyclopediaSource(entities=2_000)
        inputs = {role: folder / f"documents-{role}" for role in sources} | {"index": folder / "chunk_index-0"}
        out = folder / "neighbours-0"
        for path in (*inputs.values(), out):
            path.mkdir()
        scratch = ScratchEncoder(layers=1, hidden_size=options.width, heads=2, max_positions=72)
        chunks = ChunkIndexConfig(encoder=ChunkEncoderConfig(encoder=scratch, max_tokens=72), chunk_tokens=64)
        for role, source in sources.items():
            config = {"documents": DocumentsConfig(source=source, join="by_id_prefix")}
            if role == "corpus":
                config |= {"tokenizer": TrainedTokenizer(source=small)}
            given = {} if role == "corpus" else {"tokenizer": inputs["corpus"]}
            lines.append(_timed(role, lambda c=config, g=given, r=role: documents.run(c, g, inputs[r], context)))
        lines.append(_timed("chunk index", lambda: chunk_index.run(chunks, inputs, inputs["index"], context)))
        lines.append(_timed("neighbours", lambda: neighbours.run(NeighboursConfig(k=2), inputs, out, context)))
    held = "held" if peak() < LIMIT else "NOT HELD"
    return [*lines, "", f"Peak {peak():.2f} GB of {LIMIT:.0f}, width {options.width}: {held}."]


class _Quiet:
    """What stages may use, in a benchmark."""

    seed, threads, runtime = 0, torch.get_num_threads(), Runtime()

    def log(self, metrics, step) -> None: ...

    def all_read(self) -> None: ...

    def progress(self, done, total, **shown) -> None: ...


def _timed(what: str, run) -> str:
    start = time.perf_counter()
    summary = run()
    shown = ", ".join(f"{name} {value:,.0f}" for name, value in summary.items())
    line = f"| {what} | {time.perf_counter() - start:,.0f} | {peak():.2f} | {shown} |"
    print(line, flush=True)
    return line


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("rate", "memory", "peer"), help="default: all that can be measured")
    parser.add_argument("--peer", help="python of an environment with retro-pytorch 0.3.9 and transformers")
    parser.add_argument("--asked", type=int, default=2_000, help="chunks whose neighbours are computed")
    parser.add_argument("--corpus", type=int, default=100_000, help="chunks that are searched")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=1_000_000, help="of the corpus, for memory")
    parser.add_argument("--searched", type=int, default=20_000, help="chunks whose neighbours are computed, for memory")
    parser.add_argument("--width", type=int, default=384, help="of the embeddings, for memory")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [f"{date.today()}, {options.threads} threads, torch {torch.__version__}", ""]
    measures = {"memory": memory, "rate": rate}  # memory first: its peak is that of the process
    if options.peer:
        measures["peer"] = peer
    for name, measure in measures.items():
        if options.what in (None, name):
            lines += [*measure(options), ""]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines))


if __name__ == "__main__":
    launched = KEEP_FREED_MEMORY | FEWER_KERNELS  # as `rlm run` starts its processes
    if not launched.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **launched})
    main()
