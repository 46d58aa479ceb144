"""One GPU: MiniLM's encoding rate, exact search over 13 million passages, and rows of Table 2 at mini scale.

The first two print their share of what an H200 does at best: 790 TFLOP/s in bfloat16 and 4.3 TB/s. The rows run as
`rlm run` runs them, until `--minutes` are over; what is finished is kept, and the table marks what is not.

    python benchmarks/gpu_table2.py --data DATA --out benchmarks/results/gpu_table2.md
    python benchmarks/gpu_table2.py --data DATA --rows "REALM,Baseline (ORQA)" --set corpus.source.limit=81000
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch

from rlm.data.tokens import Ragged, SpecialTokens
from rlm.retrieval.config import DualEncoderConfig, ExactIndex, PretrainedEncoder
from rlm.retrieval.encoder import DualEncoder, embed_corpus
from rlm.retrieval.exact import Exact

FLOPS, BYTES = 790e12, 4.3e12
TABLE = Path(__file__).parent.parent / "experiments" / "realm_table2.yaml"


def seconds(work: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """The best of some rounds, after one that warms up."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def encoding(name: str, passages: int, device: torch.device) -> str:
    """Random word pieces, of lengths as Wikipedia's blocks of 100 words have."""
    rng = np.random.default_rng(0)
    lengths = rng.normal(135, 30, passages).clip(20, 250).astype(int)
    bodies = Ragged(rng.integers(1_000, 30_000, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)]))
    titles = Ragged(rng.integers(1_000, 30_000, 3 * passages), np.arange(passages + 1) * 3)
    config = DualEncoderConfig(encoder=PretrainedEncoder(name=name), pooling="mean")
    model = DualEncoder(config, vocab_size=30_522).to(device).eval()
    out = torch.empty(passages, model.dim, device=device)
    special = SpecialTokens(cls=101, sep=102, pad=0, mask=103)
    took = seconds(lambda: embed_corpus(model, bodies, titles, special, out), device)
    pieces = int(lengths.sum()) + 6 * passages
    layers = sum(weight.numel() for path, weight in model.named_parameters() if ".layer." in path)
    share = 2 * layers * pieces / took / FLOPS
    return f"| {passages / took:,.0f} passages/s | {pieces / took:,.0f} word pieces/s | {share:.1%} of the peak |"


def search(passages: int, queries: int, device: torch.device) -> str:
    embeddings = torch.randn(passages, 128, device=device).bfloat16()
    index = Exact(ExactIndex(), embeddings, device=device)
    asked = torch.randn(queries, 128, device=device)
    took = seconds(lambda: index.search(asked, 8), device)
    least = max(2 * embeddings.numel() / BYTES, 2 * embeddings.numel() * queries / FLOPS)
    return f"| {passages:,} x 128 | {queries} | {1e3 * took:.1f} ms | {1e3 * least:.1f} ms | {took / least:.1f} |"


def rows(options: argparse.Namespace, table: Path = TABLE) -> str:
    """`rlm run`, interrupted as Ctrl-C does when the time is over, then `rlm table`."""
    torch.cuda.empty_cache()  # what was measured before leaves the GPU to the rows
    chosen = ["--scale", options.scale, "--store", str(options.store), "--rows", options.rows]
    chosen += [argument for setting in options.set for argument in ("--set", setting)]
    chosen += ["--data", str(options.data)] if options.data else []
    run = subprocess.Popen([sys.executable, "-m", "rlm", "run", str(table), *chosen], start_new_session=True)
    try:
        run.wait(60 * options.minutes)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(60)
        run.kill()
    printed = [sys.executable, "-m", "rlm", "table", str(table), *chosen]
    return subprocess.run(printed, check=True, capture_output=True, text=True).stdout


def report(out: Path | None) -> tuple[torch.device, Callable[..., None]]:
    """The device, and what prints the lines of a part, and writes all parts so far."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    named = torch.cuda.get_device_name() if device.type == "cuda" else "cpu (no GPU was found)"
    parts = [f"{date.today()}, {named}, torch {torch.__version__}: `python {' '.join(sys.argv)}`"]

    def tell(*lines: str) -> None:
        parts.append("\n".join(lines))
        print(parts[-1], flush=True)
        if out:  # after each part, for a lease may end
            out.write_text("\n\n".join(parts) + "\n")

    return device, tell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real data, as `rlm run` takes it")
    parser.add_argument("--scale", default="mini")
    parser.add_argument("--rows", default="REALM,Baseline (ORQA),30x stale MIPS")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="as `rlm run` takes it")
    parser.add_argument("--minutes", type=float, default=9.0, help="for the rows")
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2", help="path or hub name")
    parser.add_argument("--passages", type=int, default=100_000, help="that are encoded")
    parser.add_argument("--indexed", type=int, default=13_000_000, help="that are searched")
    parser.add_argument("--store", type=Path, default=Path("runs") / "gpu")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    device, tell = report(options.out)
    tell(
        "Encoding with MiniLM:",
        "",
        "| rate | | matrix products |",
        "|---|---|---|",
        encoding(options.encoder, options.passages, device),
    )
    head = ["Exact search, top 8, bfloat16; least: the embeddings read once, or the products:", ""]
    head += ["| passages | queries | time | least | times the least |", "|---|--:|--:|--:|--:|"]
    tell(*head, *(search(options.indexed, queries, device) for queries in (64, 512)))
    tell(rows(options))


if __name__ == "__main__":
    main()
