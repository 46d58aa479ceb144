"""What keeping freed memory gains: the same training steps with glibc's defaults and as the launcher starts processes.

glibc gives large freed blocks back to the system and takes them anew in the next step, page by page. Told to keep
them, it reuses pages that are already there. Prints steps/s of both, measured in turn in one run, and their ratio.

    python benchmarks/kept_memory.py [--rounds 3] [--seconds 8] [--threads N]
"""

import argparse
import os
import subprocess
import sys
import time

from rlm.launch import KEEP_FREED_MEMORY


def steps_per_second(seconds: float, threads: int) -> float:
    """Forward and backward of a small transformer with large temporaries (logits of 96 MB), AdamW."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    width, vocabulary, batch, length = 128, 8192, 24, 128
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
    model = nn.Sequential(
        nn.Embedding(vocabulary, width),
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        nn.Linear(width, vocabulary),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.randint(vocabulary, (batch, length))

    def step() -> None:
        optimizer.zero_grad()
        logits = model(tokens)  # [batch, length, vocabulary]
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()

    step()
    step()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        done += 1
    return done / (time.perf_counter() - start)


def measure(kept: bool, seconds: float, threads: int) -> float:
    """`steps_per_second` in a fresh process: glibc reads its settings before Python starts."""
    environment = {name: value for name, value in os.environ.items() if name not in KEEP_FREED_MEMORY}
    environment |= KEEP_FREED_MEMORY if kept else {}
    command = [sys.executable, __file__, "--one", "--seconds", str(seconds), "--threads", str(threads)]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times that both are measured, in turn")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(steps_per_second(options.seconds, options.threads))
        return
    plain, kept = [], []
    for _ in range(options.rounds):
        plain.append(measure(False, options.seconds, options.threads))
        kept.append(measure(True, options.seconds, options.threads))
    # The best of each: other work on the machine only ever slows.
    ratio = max(kept) / max(plain)
    print(f"plain {max(plain):.2f} steps/s, kept {max(kept):.2f} steps/s (best of {options.rounds}): {ratio:.2f} times")


if __name__ == "__main__":
    main()
