"""Writing a datastore beside the language model's bare forward pass, and searching one that is larger than memory.

The first part writes the keys of random tokens with a GPT-2 of random weights, and passes the same windows forward,
without logits, in turn: tokens/s of both, and their ratio (median over rounds). The second writes `--keys` keys in a
process of its own, searches them exactly, and tells the resident memory at its highest.

    python benchmarks/datastore.py [--layers 6] [--width 384] [--rounds 3] [--keys 10000000] [--threads N]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rlm.data.chunks import Chunks
from rlm.data.config import TrainedByteTokenizer
from rlm.data.documents import Documents, write_documents
from rlm.data.sources import Passage
from rlm.data.text_windows import TextWindows
from rlm.data.tokenizer import make_tokenizer
from rlm.launch import FEWER_KERNELS, KEEP_FREED_MEMORY
from rlm.models.knn_config import DatastoreConfig
from rlm.models.language_model import HuggingFaceLanguageModel
from rlm.retrieval.config import ExactIndex
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.datastore_search import ExactSearch
from rlm.retrieval.datastore_writer import DatastoreWriter
from rlm.stages.datastore import write_keys

ROWS, QUERIES = 1 << 16, 256


class Quiet:
    """A stage's surroundings that tell nobody."""

    def progress(self, done: int, total: int, **shown: float) -> None: ...


def windows(folder: Path, count: int, tokens: int) -> TextWindows:
    """Windows of documents of random words."""
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(3000)]
    texts = [" ".join(rng.choice(words, 4 * tokens)) for _ in range(count)]
    tokenizer = make_tokenizer(TrainedByteTokenizer(vocab_size=4000), lambda: iter(texts[:20]), needs=())
    write_documents(folder, (Passage(str(n), "", text) for n, text in enumerate(texts)), tokenizer)
    return TextWindows(Chunks(Documents.open(folder), 1), tokens)


def writing(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = windows(folder, options.documents, 256)
        shape = {"n_layer": options.layers, "n_embd": options.width, "n_head": options.width // 64}
        vocab_size = text.chunks.documents.vocab_size
        model = HuggingFaceLanguageModel(GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, n_positions=256, **shape)))
        settings = DatastoreConfig(tokens=256, batch_size=8)

        def forward() -> None:
            for batch in text.batches(settings.batch_size):
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                    model.hidden(batch["ids"])  # no logits, as datastores need none

        rates: list[tuple[float, float]] = []
        for turn in range(options.rounds + 1):
            writer = DatastoreWriter(folder / str(turn), model.width, vocab_size, {})
            start = time.perf_counter()
            write_keys(model, text, writer, settings, None, Quiet(), "cpu")  # type: ignore[arg-type]
            middle = time.perf_counter()
            forward()
            rates.append((writer.count / (middle - start), writer.count / (time.perf_counter() - middle)))
        ratio = statistics.median(ours / bare for ours, bare in rates[1:])
        ours, bare = (statistics.median(column) for column in zip(*rates[1:], strict=True))
        print(f"writing {ours:,.0f} tokens/s, bare forward pass {bare:,.0f} tokens/s, ratio {ratio:.2f}")


def large(keys: int, width: int) -> None:
    """Writes and searches so many keys, and tells this process's highest resident memory."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        writer = DatastoreWriter(Path(name), width, 50_257, {"model": "random", "key": "random"})
        generator = torch.Generator().manual_seed(0)
        start = time.perf_counter()
        for low in range(0, keys, ROWS):
            some = torch.randn(min(ROWS, keys - low), width, generator=generator)
            writer.append(some, torch.randint(50_257, (len(some),), generator=generator))
        writer.close()
        written = time.perf_counter() - start
        start = time.perf_counter()
        store = Datastore.open(Path(name), whole=False)
        ExactSearch(store, ExactIndex()).search(torch.randn(QUERIES, width, generator=generator), 1024)
        searched = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(
            f"{keys:,} keys x {width} float16 ({keys * (2 * width + 2) / 1e9:.2f} GB): written in {written:.0f} s, "
            f"{QUERIES} queries with k = 1,024 in {searched:.0f} s, {peak / 1e9:.2f} GB resident at most"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--documents", type=int, default=16, help="of 1,024 words or so")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--key-width", type=int, default=128)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--large", action="store_true", help="only the second part, in this process")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.large:
        large(options.keys, options.key_width)
        return
    writing(options)
    arguments = ["--large", "--keys", str(options.keys), "--key-width", str(options.key_width)]
    subprocess.run([sys.executable, __file__, *arguments, "--threads", str(options.threads)], check=True)


if __name__ == "__main__":
    launched = KEEP_FREED_MEMORY | FEWER_KERNELS  # as `rlm run` starts its processes
    if not launched.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **launched})
    main()
