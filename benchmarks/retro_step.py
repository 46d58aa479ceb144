"""RETRO's training step, forward and backward, in tokens/s: ours against `retro-pytorch` 0.3.9, in turn.

Width 256, 6 layers of which the third and sixth attend, sequences of 512, chunks of 64, 2 neighbours of 128, encoder of
2 layers, batch 4, vocabulary of 8,192, freed memory kept. The peer always has 8 heads: of 64 as it comes, which is an
attention twice as wide as the model, or of 32, which is the same work as ours. The limit is the rate if there were
nothing but the products with the weights, each as fast as one of 2,048 cubed.

    python benchmarks/retro_step.py                        (ours alone)
    python benchmarks/retro_step.py --peer PYTHON --out FILE.md
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peer import Peer
from rlm.launch import FEWER_KERNELS, KEEP_FREED_MEMORY
from rlm.models.retro import Retro, build_retro
from rlm.models.retro_config import NeighbourEncoderConfig, RetroConfig, ScratchDecoder
from rlm.models.retro_training import token_nats

VOCABULARY, WIDTH, CHUNK = 8_192, 256, 64
TARGETS = {False: 2.0, True: 4.0}
"""Least ratio to the peer in float32, by whether ours is in bfloat16."""


def model(head: int, cca_layers: tuple[int, ...] = (3, 6)) -> Retro:
    """The setting of the benchmark, with heads of so many dimensions."""
    torch.manual_seed(0)
    heads = WIDTH // head
    config = RetroConfig(
        decoder=ScratchDecoder(layers=6, hidden_size=WIDTH, heads=heads),
        encoder=NeighbourEncoderConfig(layers=2, hidden_size=WIDTH, heads=heads),
        chunk_tokens=CHUNK,
        cca_layers=cca_layers,
    )
    return build_retro(config, VOCABULARY)


def batch(rows: int = 4, length: int = 512, k: int = 2) -> dict[str, torch.Tensor]:
    """Random tokens, none of them padded; k = 0 is without neighbours."""
    shape = (rows, length // CHUNK, k, 2 * CHUNK)
    made = {name: torch.randint(1, VOCABULARY, (rows, length)) for name in ("ids", "targets")}
    made |= {"scored": torch.ones(rows, length, dtype=torch.bool)}
    if k:
        made |= {"neighbour_ids": torch.randint(1, VOCABULARY, shape), "neighbour_mask": torch.ones(shape) > 0}
    return made


def step(retro: Retro, tokens: dict[str, torch.Tensor], bf16: bool) -> None:
    retro.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = token_nats(retro, tokens).mean()
    loss.backward()


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def operations(retro: Retro, tokens: dict[str, torch.Tensor]) -> float:
    """Of a step's products with weights, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step(retro, tokens, False)
    return float(counter.get_total_flops())


def product_rate(bf16: bool, clock: Callable[[], float], size: int = 2_048) -> float:
    """Operations per second of a large product."""
    left, right = torch.randn(2, size, size, dtype=torch.bfloat16 if bf16 else torch.float32)
    return 2 * size**3 * 4 / seconds(lambda: [left @ right for _ in range(4)], clock)


def table(rates: dict[tuple[str, int, bool], list[float]]) -> list[str]:
    """Medians over the rounds, of rates in tokens/s by what, dimensions of a head and whether in bfloat16."""
    lines = [
        "| heads: peer, ours | ours in | ours, tokens/s | limit | share | peer, float32 | peer, bfloat16 | "
        "ratio to the peer's float32 | wanted |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for _, head, bf16 in [key for key in rates if key[0] == "ours"]:
        mine, limit = rates["ours", head, bf16], rates["limit", head, bf16]
        cells = [f"8 x {head}, {WIDTH // head} x {head}", "bfloat16" if bf16 else "float32"]
        cells += [f"{statistics.median(each):,.0f}" for each in (mine, limit)]
        cells += [f"{statistics.median(map(float.__truediv__, mine, limit)):.2f}"]
        theirs = [rates.get(("peer", head, which)) for which in (False, True)]
        cells += [f"{statistics.median(each):,.0f}" if each else "" for each in theirs]
        cells += [f"{statistics.median(map(float.__truediv__, mine, theirs[0])):.2f}" if theirs[0] else ""]
        lines.append(f"| {' | '.join([*cells, f'{TARGETS[bf16]:.0f}'])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="python of an environment with retro-pytorch 0.3.9")
    parser.add_argument("--rounds", type=int, default=5, help="times that all are measured, in turn")
    parser.add_argument("--steps", type=int, default=1, help="of each measurement")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--heads", type=int, nargs="+", default=[64, 32], help="dimensions of a head")
    parser.add_argument("--cpu", action="store_true", help="processor time, for a busy machine; with one thread only")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    if options.cpu and options.threads > 1:
        parser.error("--cpu: threads that wait for each other take processor time too; add --threads 1")
    torch.set_num_threads(options.threads)
    clock, theirs = (time.process_time, "cpu_seconds") if options.cpu else (time.perf_counter, "seconds")
    tokens = batch()
    count = tokens["ids"].numel() * options.steps
    models = {head: model(head) for head in options.heads}
    work = operations(models[options.heads[0]], tokens)
    about = (
        f"{date.today()}, {options.threads} threads, torch {torch.__version__}, {os.cpu_count()} cores; medians of "
        f"{options.rounds} rounds of {options.steps} steps; {work / 1e9:,.0f} GFLOP a step"
        f"{', processor time' if options.cpu else ''}"
    )
    rates: dict[tuple[str, int, bool], list[float]] = {}
    with Peer(options.peer, options.threads) if options.peer else nullcontext() as peer:
        for turn in range(options.rounds + 1):
            for (head, ours), bf16 in itertools.product(models.items(), TARGETS):
                found = {}
                if peer:
                    found["peer"] = count / peer("step", head=head, bf16=bf16, steps=options.steps)[theirs]
                mine = seconds(lambda: [step(ours, tokens, bf16) for _ in range(options.steps)], clock)  # noqa: B023
                found["ours"] = count / mine
                found["limit"] = tokens["ids"].numel() * product_rate(bf16, clock) / work
                for what, value in found.items():
                    rates.setdefault((what, head, bf16), []).extend([value] * (turn > 0))  # the first round warms up
                shown = ", ".join(f"{what} {value:,.0f}" for what, value in found.items())
                print(
                    f"round {turn}, heads of {head}, {'bfloat16' if bf16 else 'float32'}: {shown} tokens/s", flush=True
                )
    lines = [about, "", *table(rates)]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    launched = KEEP_FREED_MEMORY | FEWER_KERNELS  # as `rlm run` starts its processes
    if not launched.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **launched})
    main()
