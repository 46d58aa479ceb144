"""What a stage cost: time, cores, accelerator, memory; and what it ran with (imports nothing heavy)."""

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from rlm.config import Runtime

_PACKAGES = (
    "rlm-lightning",
    "torch",
    "lightning",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "pyarrow",
    "faiss-cpu",
    "faiss-gpu-cu12",
    "bm25s",
    "spacy",
    "safetensors",
    "sacrebleu",
)


class Meter:
    """Measures a block of work in this process and the processes it starts.

    Peak memory is the kernel's own high-water mark of this process, reset at the start, or the sum of resident sizes
    with its children, sampled, whichever is larger: a worker runs many stages, so its lifetime peak says nothing.
    """

    def __init__(self, runtime: Runtime, every: float = 0.25) -> None:
        """`every`: seconds between samples of memory."""
        self._runtime = runtime
        self._every = every
        self._stop = threading.Event()
        self._process = psutil.Process()
        self._sampled = 0
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Meter":
        """Start to measure."""
        _reset_peak()
        self._reset_device()
        self.started = datetime.now(UTC)
        self._clock = time.perf_counter()
        self._cores = os.times()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to measure."""
        self._seconds = time.perf_counter() - self._clock
        now = os.times()
        self._core_seconds = sum(now[:4]) - sum(self._cores[:4])
        self._stop.set()
        self._thread.join()

    def cost(self) -> dict[str, Any]:
        """The fields of `stage.json` that say what the work cost; seconds and bytes."""
        device = self._device()
        return {
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(self._seconds, 3),
            "core_seconds": round(self._core_seconds, 3),
            "gpu_seconds": round(self._seconds * self._runtime.devices, 3) if device.startswith("cuda") else 0.0,
            "peak_memory_bytes": max(self._sampled, _peak()),
            "device": device,
        }

    def _sample(self) -> None:
        while True:
            self._sampled = max(self._sampled, self._resident())
            if self._stop.wait(self._every):
                return

    def _resident(self) -> int:
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue  # It ended between the two calls.
        return total

    def _reset_device(self) -> None:
        cuda = _cuda()
        if cuda is not None:
            cuda.reset_peak_memory_stats()

    def _device(self) -> str:
        cuda = _cuda()
        if cuda is not None and cuda.max_memory_allocated() > 0:
            return f"cuda ({cuda.get_device_name()})"
        return f"cpu ({_processor()})"


def _cuda() -> Any:
    """torch.cuda where the stage has started it; importing torch only to ask would cost seconds."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def _reset_peak() -> None:
    # The launcher lets processes keep freed memory for the next step, which would count as the next stage's.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    # Elsewhere than on Linux the sampled figure is all there is.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak() -> int:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


@functools.cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit of the checkout that `rlm` is imported from, and whether tracked files differ; null when installed."""
    root = Path(__file__).parents[2]

    def ask(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return {"commit": None, "dirty": None}


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages a result may depend on."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
