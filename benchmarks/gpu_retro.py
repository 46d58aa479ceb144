"""One GPU: RETRO and its language model at equal tokens on real articles, with and without retrieval.

First training tokens/s of random batches, with the share of what an H200 does at best (790 TFLOP/s in bfloat16), then
rows of `experiments/retro_fitting.yaml` as `rlm run` runs them, until `--minutes` are over.

    PYTHONPATH=. python benchmarks/gpu_retro.py --data DATA --out benchmarks/results/gpu_retro.md
    PYTHONPATH=. python benchmarks/gpu_retro.py --scale tiny --minutes 3 --batch 2
"""

import argparse
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.gpu_table2 import FLOPS, rows, seconds
from rlm.models.retro import Neighbours, build_retro
from rlm.models.retro_config import RetroConfig
from rlm.table import load_table

TABLE = Path(__file__).parent.parent / "experiments" / "retro_fitting.yaml"


def training(config: RetroConfig, name: str, tokens: int, k: int, batch: int, device: torch.device) -> str:
    """Forward and backward in bfloat16."""
    vocab_size, m = 16_384, config.chunk_tokens
    model = build_retro(config, vocab_size).to(device)
    ids = torch.randint(vocab_size, (batch, tokens), device=device)
    found = torch.randint(vocab_size, (batch, tokens // m, k, 2 * m), device=device)
    neighbours = Neighbours(found, torch.ones_like(found, dtype=torch.bool)) if k else None

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(ids, neighbours)
        F.cross_entropy(logits.float().flatten(0, 1), ids.flatten()).backward()

    took = seconds(step, device)
    encoder = 0 if model.encoder is None else sum(p.numel() for p in model.encoder.layers.parameters())
    embedded = 0 if model.encoder is None or model.encoder.embedding is None else model.encoder.embedding.weight.numel()
    others = sum(p.numel() for p in model.parameters()) - encoder - embedded
    operations = 6 * batch * tokens * (others + 2 * k * encoder)
    shares = f"{operations / took / 1e12:,.1f} TFLOP/s | {operations / took / FLOPS:.1%}"
    return f"| {name} | {batch * tokens / took:,.0f} | {shares} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real data, as `rlm run` takes it")
    parser.add_argument("--scale", default="mini")
    parser.add_argument("--rows", default="Base LM,RETRO,RETRO Off")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="as `rlm run` takes it")
    parser.add_argument("--minutes", type=float, default=9.0, help="for the rows")
    parser.add_argument("--batch", type=int, default=32, help="windows of the random batches")
    parser.add_argument("--store", type=Path, default=Path("runs") / "gpu")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    named = torch.cuda.get_device_name() if device.type == "cuda" else "cpu (no GPU was found)"
    experiment = load_table(TABLE, options.scale).rows["RETRO"]
    model, read = experiment.model, experiment.train
    parts = [
        f"{date.today()}, {named}, torch {torch.__version__}: `python {' '.join(sys.argv)}`",
        "\n".join(
            [
                f"Training in bfloat16, {options.batch} windows of {read.tokens} tokens, {read.k} neighbours:",
                "",
                "| model | tokens/s | matrix products | of the peak |",
                "|---|--:|--:|--:|",
                training(model, "RETRO", read.tokens, read.k, options.batch, device),
                training(replace(model, cca_layers=()), "Base LM", read.tokens, 0, options.batch, device),
            ]
        ),
    ]
    print(parts[-1], flush=True)
    parts.append(rows(options, TABLE))
    print(parts[-1])
    if options.out:
        options.out.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
