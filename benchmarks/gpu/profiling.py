"""Where the time of a stage went, and how idle the GPU was meanwhile."""

import itertools
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

IDLE = 0.2
"""Share of a stage's time for which it may leave the GPU idle; more is a fault."""
EVERY_MS = 200
HEAD = ("stage", "for", "s", "start", "steps", "refresh", "end", "steps/s", "cores", "GPU idle", "")


class Sampler:
    """Asks `nvidia-smi` how busy the GPU is, all the time; where there is none, knows nothing."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []
        """Seconds since the epoch, and the share of the time before in which a kernel ran."""
        self._process: subprocess.Popen[str] | None = None
        self.gpu = shutil.which("nvidia-smi") is not None
        self.name = "no GPU"
        if self.gpu:
            asked = ["nvidia-smi", "--format=csv,noheader,nounits"]
            named = subprocess.run([*asked, "--query-gpu=name"], capture_output=True, text=True)
            self.name = named.stdout.strip().replace("\n", ", ")
            command = [*asked, "--query-gpu=utilization.gpu", "-lms", str(EVERY_MS)]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip().isdigit():
                self.samples.append((time.time(), int(line) / 100))

    def idle(self, start: float, end: float) -> float | None:
        """Share of a time in which the GPU did nothing; None where it is not known."""
        busy = [share for when, share in self.samples if start <= when <= end]
        return 1 - sum(busy) / len(busy) if busy else None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def profile(
    record: Mapping[str, Any],
    events: Iterable[Mapping[str, Any]],
    label: str,
    start: float,
    end: float,
    sampler: Sampler,
) -> dict[str, Any]:
    """Where the time between `start` and `end` (seconds since the epoch) went.

    A training logs its pace every few steps, and each swap of its index: what a stretch with a swap took longer than
    the median of those without is time of the refresh.

    Args:
        record: of the stage (`stage.json`).
        events: what it logged.
        label: what it was for.
        start: when it was started.
        end: when it was done.
        sampler: of the GPU.
    """
    logged = [event for event in events if event["time"] >= start]
    paces = [(event["step"], event["time"]) for event in logged if "steps_per_second" in event["metrics"]]
    swaps = [event["time"] for event in logged if "churn" in event["metrics"]]
    shown: dict[str, Any] = {"stage": record["name"], "for": label, "when": start, "s": end - start}
    shown["cores"] = record["core_seconds"] / record["seconds"] if record["seconds"] else 0.0
    if len(paces) > 1:
        stretches = [
            (after[0] - before[0], after[1] - before[1], any(before[1] < swap <= after[1] for swap in swaps))
            for before, after in itertools.pairwise(paces)
        ]
        plain = [seconds / steps for steps, seconds, swapped in stretches if not swapped and steps > 0]
        step = median(plain or [seconds / steps for steps, seconds, _ in stretches if steps > 0])
        shown["refresh"] = sum(max(0.0, seconds - step * steps) for steps, seconds, swapped in stretches if swapped)
        shown["start"] = max(0.0, paces[0][1] - start - step * min(paces[0][0], stretches[0][0]))
        shown["end"] = end - paces[-1][1]
        shown["steps"] = end - start - shown["start"] - shown["end"] - shown["refresh"]
        shown["steps/s"] = 1 / step if step else 0.0
    shown["GPU idle"] = sampler.idle(start, end)
    return shown


def read_events(path: Path) -> list[dict[str, Any]]:
    """What a stage logged; a line that was cut off is left out."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def table(profiles: Iterable[Mapping[str, Any]]) -> list[str]:
    """The lines of a table, with stages that left the GPU idle marked."""
    lines = [f"| {' | '.join(HEAD)} |", "|---|---|" + "--:|" * (len(HEAD) - 3) + "---|"]
    for shown in profiles:
        cells = [str(shown["stage"]), str(shown["for"])]
        for name in HEAD[2:-2]:
            value = shown.get(name)
            cells.append("–" if value is None else f"{value:.1f}")
        idle = shown.get("GPU idle")
        cells += ["–" if idle is None else f"{idle:.0%}", "FAULT: idle" if faulty(shown) else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def faulty(shown: Mapping[str, Any]) -> bool:
    """Whether a stage left the GPU idle for too long."""
    return shown.get("GPU idle") is not None and shown["GPU idle"] > IDLE
