"""Beam search with a datastore of a million keys, to the same model alone, in turn.

An encoder-decoder with random weights translates random sentences, every translation as long as the others, so that
both write the same number of tokens. Keys are the model's own states at random tokens, with noise, so that they lie as
states do. Prints tokens/s of both and their ratio (median over rounds), for each kind of search.

    python benchmarks/knn_mt_decoding.py [--keys 1000000] [--rounds 3] [--threads N] [--out FILE.md]
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from rlm.launch import FEWER_KERNELS, KEEP_FREED_MEMORY
from rlm.models.knn_mt import NeighbourInterpolation
from rlm.models.translation import DecoderStates, build_translator, token_states
from rlm.models.translation_config import DecodingConfig, NearestTokens, ScratchTranslator
from rlm.retrieval.config import ExactIndex, FaissIvfPq
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.datastore_search import open_search
from rlm.retrieval.datastore_writer import DatastoreWriter
from rlm.stages.mt_translate import nearest_tokens, translate

VOCABULARY, TOKENS, NOISE = 8_000, 24, 0.3
MODEL = ScratchTranslator(layers=6, hidden_size=512, heads=8, dropout=0.0)
"""As `opus-mt`: 6 layers of 512."""
SEARCHES = {
    "exact": ExactIndex(),
    "IVF-PQ, distances from the full keys": FaissIvfPq(sub_quantizers=64),
    "IVF-PQ, quantised distances": FaissIvfPq(sub_quantizers=64, rerank=0),
}


def sentences(count: int) -> dict[str, Tensor]:
    ids = torch.randint(2, VOCABULARY, (count, TOKENS))
    return {"ids": ids, "mask": torch.ones_like(ids), "labels": torch.randint(2, VOCABULARY, (count, TOKENS))}


def write_datastore(folder: Path, model: object, keys: int) -> Datastore:
    with DecoderStates(model) as states, torch.inference_mode():
        found, _ = token_states(model, states, sentences(64))
    writer = DatastoreWriter(folder, found.shape[1], VOCABULARY, {})
    while writer.count < keys:
        count = min(1 << 16, keys - writer.count)
        drawn = found[torch.randint(len(found), (count,))]
        writer.append(drawn + NOISE * drawn.std() * torch.randn_like(drawn), torch.randint(2, VOCABULARY, (count,)))
    writer.close()
    return Datastore.open(folder)


def rate(run: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    written = run()[:, 1:]
    return written.numel() / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=32)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = build_translator(MODEL, VOCABULARY, 0, 1).eval()
    model.generation_config.eos_token_id = None  # every translation has all tokens
    decode = DecodingConfig(beams=4, max_tokens=TOKENS, knn=NearestTokens(weight=0.5, k=16))
    batch, alone = sentences(options.sentences), LogitsProcessorList()
    lines = [
        f"# kNN-MT decoding, {date.today()}: {platform.machine()}, {torch.get_num_threads()} threads",
        "",
        f"{options.keys:,} keys x {MODEL.hidden_size}, {options.sentences} sentences, {decode.beams} beams,"
        f" k = {decode.knn.k}; tokens/s of the best beams",
        "",
        "| search | model alone | with datastore | ratio |",
        "|---|--:|--:|--:|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = write_datastore(Path(folder), model, options.keys)
        for name, config in SEARCHES.items():
            nearest = nearest_tokens(open_search(config, store, None, ("cpu",)), store)
            rates: list[tuple[float, float]] = []
            for _ in range(options.rounds):
                plain = rate(lambda: translate(model, batch, decode, alone, None))
                with DecoderStates(model) as states:
                    mixed = LogitsProcessorList([NeighbourInterpolation(states, nearest, decode.knn)])
                    rates.append((plain, rate(lambda mixed=mixed: translate(model, batch, decode, mixed, None))))
            ratio = statistics.median(ours / plain for plain, ours in rates)
            plain, ours = (statistics.median(column) for column in zip(*rates, strict=True))
            lines.append(f"| {name} | {plain:,.0f} | {ours:,.0f} | {ratio:.2f} |")
            print(lines[-1], flush=True)
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    launched = KEEP_FREED_MEMORY | FEWER_KERNELS  # as `rlm run` starts its processes
    if not launched.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **launched})
    main()
