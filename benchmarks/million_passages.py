"""A corpus that does not fit in memory: generated, tokenised, embedded and indexed, with the peak of resident memory.

python benchmarks/million_passages.py
python benchmarks/million_passages.py --passages 100000
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch

from rlm.data.config import CorpusConfig, EncyclopediaSource, TrainedTokenizer
from rlm.data.corpus import Corpus, write_corpus
from rlm.data.sources import read_passages
from rlm.data.tokenizer import make_tokenizer
from rlm.retrieval.config import DualEncoderConfig, ExactIndex, ScratchEncoder
from rlm.retrieval.encoder import DualEncoder, embed_queries
from rlm.retrieval.refresh import build_snapshot_index, open_snapshot, write_snapshot

PASSAGES_PER_ENTITY = 4.4
LIMIT = 3.0  # GB


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000)
    options = parser.parse_args()
    source = EncyclopediaSource(entities=round(options.passages / PASSAGES_PER_ENTITY))
    small = EncyclopediaSource(entities=2_000, stream="language")
    tokenizer = make_tokenizer(
        TrainedTokenizer(vocab_size=4_096), lambda: (passage.text for passage in read_passages(small, None))
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        config = CorpusConfig(source=source, packing="as_is", max_tokens=128)
        (folder / "corpus").mkdir()
        summary = write_corpus(folder / "corpus", read_passages(source, None), tokenizer, config)
        print(
            f"{summary['passages']:,.0f} passages written in {time.perf_counter() - start:.0f} s, peak {peak():.2f} GB"
        )
        corpus = Corpus.open(folder / "corpus")
        scratch = ScratchEncoder(layers=1, hidden_size=64, heads=2, max_positions=128)
        retriever = DualEncoder(DualEncoderConfig(encoder=scratch, passage_tokens=64), corpus.vocab_size)
        start = time.perf_counter()
        snapshot = write_snapshot(retriever, folder / "snapshots", 0)
        build_snapshot_index(snapshot, folder / "corpus", ExactIndex())
        print(f"embedded and indexed in {time.perf_counter() - start:.0f} s, peak {peak():.2f} GB")
        index = open_snapshot(snapshot)
        queries = embed_queries(retriever, corpus.tokens.take(torch.arange(64).numpy()), corpus.special)
        index.search(queries, 8)
        held = peak()
    print(f"peak resident memory {held:.2f} GB, {held / LIMIT:.2f} of the {LIMIT:.0f} GB allowed")


if __name__ == "__main__":
    main()
