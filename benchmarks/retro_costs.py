"""What neighbours cost in evaluation, and how the memory of a training step grows with the sequence.

`evaluation`: seconds to score the same windows with 2 neighbours of each chunk and by the base language model, in turn,
for the model of `retro_step.py` (two layers that attend) and with the layers that attend by default. `memory`: peak of
resident memory of forward and backward at batch 1, each length in a fresh process, above what is resident before; the
slope of its logarithm over the length's is 1 where memory is linear, 2 where it is quadratic.

    python benchmarks/retro_costs.py [--out FILE.md]
    python benchmarks/retro_costs.py evaluation --rounds 5
    python benchmarks/retro_costs.py memory --lengths 512 1024
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from benchmarks.retro_step import CHUNK, batch, model, seconds, step
from rlm.launch import FEWER_KERNELS, KEEP_FREED_MEMORY
from rlm.models.retro import Retro
from rlm.models.retro_config import attending_layers
from rlm.models.retro_training import token_nats

TARGET = 2.2
"""Times the base language model's seconds, at most."""


def scored(retro: Retro, tokens: dict[str, torch.Tensor], bf16: bool, cpu: bool) -> float:
    def score() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            token_nats(retro, tokens)

    return seconds(score, time.process_time if cpu else time.perf_counter)


def evaluation(options: argparse.Namespace) -> list[str]:
    lines = [
        "| layers that attend | precision | base LM, tokens/s | 2 neighbours | times the base's time | allowed |",
        "|---|---|--:|--:|--:|--:|",
    ]
    with_neighbours = batch(options.rows)
    without = {name: value for name, value in with_neighbours.items() if "neighbour" not in name}
    count, base = without["ids"].numel(), model(64, cca_layers=()).eval()
    retros = {layers: model(64, layers).eval() for layers in ((3, 6), attending_layers(None, 6))}
    for bf16 in (False, True):
        times: dict[object, list[float]] = {}
        for turn in range(options.rounds + 1):
            found = {"base": scored(base, without, bf16, options.cpu)}
            found |= {layers: scored(retro, with_neighbours, bf16, options.cpu) for layers, retro in retros.items()}
            for name, value in found.items():
                times.setdefault(name, []).extend([value] * (turn > 0))  # the first round warms up
            shown = ", ".join(f"{name} {value:.2f} s" for name, value in found.items())
            print(f"round {turn}, {'bfloat16' if bf16 else 'float32'}: {shown}", flush=True)
        for layers in retros:
            ratio = statistics.median(mine / plain for mine, plain in zip(times[layers], times["base"], strict=True))
            cells = [", ".join(map(str, layers)), "bfloat16" if bf16 else "float32"]
            cells += [f"{count / statistics.median(times[name]):,.0f}" for name in ("base", layers)]
            lines.append(f"| {' | '.join([*cells, f'{ratio:.2f}', str(TARGET)])} |")
    return lines


def resident(what: str) -> float:
    """`VmRSS`, resident memory now, or `VmHWM`, its peak, of this process in MB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) / 1e3


def one_length(length: int) -> None:
    """Prints what a step of one sequence adds to the resident memory of this process, at its peak, in MB."""
    retro = model(64)
    step(retro, batch(1, 2 * CHUNK), False)  # gradients and kernels are there before
    ctypes.CDLL(None).malloc_trim(0)  # what that step left free would be used again, and not be counted
    Path("/proc/self/clear_refs").write_text("5")  # the peak of imports is forgotten
    before = resident("VmRSS")
    step(retro, batch(1, length), False)
    print(resident("VmHWM") - before)


def memory(options: argparse.Namespace) -> list[str]:
    lines = ["| tokens | peak above the start, MB | MB per 1,000 tokens |", "|--:|--:|--:|"]
    grown = []
    environment = {name: value for name, value in os.environ.items() if name not in KEEP_FREED_MEMORY}
    for length in options.lengths:
        command = [sys.executable, __file__, "--one", str(length), "--threads", str(options.threads)]
        grown.append(float(subprocess.run(command, env=environment, check=True, capture_output=True).stdout))
        lines.append(f"| {length:,} | {grown[-1]:,.0f} | {1_000 * grown[-1] / length:,.0f} |")
    slope = np.polyfit(np.log(options.lengths), np.log(grown), 1)[0]
    return [*lines, "", f"Slope of the logarithms: {slope:.2f}."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("evaluation", "memory"), help="default: both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=16, help="windows of 512 tokens that are scored together")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1_024, 2_048, 4_096, 8_192])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="processor time, for a busy machine; add --threads 1")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        one_length(options.one)
        return
    lines = [f"{date.today()}, {options.threads} threads, torch {torch.__version__}, {os.cpu_count()} cores", ""]
    for measure in (evaluation, memory):
        if options.what in (None, measure.__name__):
            lines += [*measure(options), ""]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines))


if __name__ == "__main__":
    launched = KEEP_FREED_MEMORY | FEWER_KERNELS  # as `rlm run` starts its processes
    if "--one" not in sys.argv and not launched.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **launched})
    main()
