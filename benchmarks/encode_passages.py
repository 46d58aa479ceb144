"""Passages embedded per second with MiniLM, against the bare encoder on the same word pieces.

The peer gets everything for free: pre-tokenised rows, sorted by length, in batches of the same size, weights in pure
bfloat16, no projection, no output array. Both run in turn, several rounds, and the median of the ratios is printed.

    python benchmarks/encode_passages.py
    python benchmarks/encode_passages.py --passages 4000 --data ../shared/data
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from rlm.data.config import FilesSource, PretrainedTokenizer
from rlm.data.tokenizer import encode, make_tokenizer
from rlm.data.tokens import Ragged, SpecialTokens
from rlm.retrieval.config import DualEncoderConfig, PretrainedEncoder
from rlm.retrieval.encoder import (
    BATCH_TOKENS,
    DualEncoder,
    embed_corpus,
    embedding_copy,
    length_sorted_batches,
    passage_rows,
)

NAME = "sentence-transformers/all-MiniLM-L6-v2"


def rows(count: int, data: Path | None) -> tuple[Ragged, Ragged, SpecialTokens]:
    """Bodies and titles: real ones where there are any, else random word pieces of like lengths."""
    tokenizer = make_tokenizer(PretrainedTokenizer(name=NAME), lambda: [])
    special = SpecialTokens(*(getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad", "mask")))
    if data is not None:
        from rlm.data.sources import read_passages

        found = list(read_passages(FilesSource(files=("wiki/passages-00.jsonl.gz",), limit=count), data))
        texts = encode(tokenizer, [passage.text for passage in found])
        return Ragged.from_rows(texts), Ragged.from_rows(encode(tokenizer, [p.title for p in found])), special
    rng = np.random.default_rng(0)
    bodies = [rng.integers(1_000, 30_000, length) for length in rng.normal(135, 30, count).clip(20, 250).astype(int)]
    titles = [rng.integers(1_000, 30_000, length) for length in rng.integers(1, 6, count)]
    return Ragged.from_rows(bodies), Ragged.from_rows(titles), special


@torch.inference_mode()
def bare(encoder: torch.nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> float:
    start = time.perf_counter()
    for ids, mask, segments in batches:
        encoder(input_ids=ids, attention_mask=mask, token_type_ids=segments)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="folder of real passages (default: random word pieces)")
    options = parser.parse_args()
    tokens, titles, special = rows(options.passages, options.data)
    config = DualEncoderConfig(encoder=PretrainedEncoder(name=NAME), pooling="mean", passage_tokens=288)
    model = DualEncoder(config, vocab_size=30_522).eval()
    fast = embedding_copy(model).encoder
    prepared = []
    limit = config.passage_tokens
    for batch_rows in length_sorted_batches(np.minimum(tokens.lengths + titles.lengths + 3, limit), BATCH_TOKENS):
        batch = passage_rows(titles, tokens, batch_rows, limit, special)
        prepared.append(tuple(torch.from_numpy(part) for part in (batch.ids, batch.mask, batch.segments)))
    pieces = sum(int(mask.sum()) for _, mask, _ in prepared)
    out = np.empty((len(tokens), model.dim), np.float32)
    ratios = []
    for turn in range(options.rounds + 1):
        alone = bare(fast, prepared)
        start = time.perf_counter()
        embed_corpus(model, tokens, titles, special, out)
        ours = time.perf_counter() - start
        if turn:  # the first round warms up
            ratios.append(alone / ours)
            print(f"bare {pieces / alone:9,.0f} word pieces/s   ours {pieces / ours:9,.0f}   ratio {alone / ours:.2f}")
    print(f"{torch.get_num_threads()} threads, {len(tokens)} passages: median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
