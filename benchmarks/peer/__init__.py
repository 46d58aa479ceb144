"""Peers in environments of their own, asked by lines of JSON."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Self

from rlm.launch import FEWER_KERNELS, KEEP_FREED_MEMORY

TIMER = Path(__file__).parent / "retro_pytorch_timer.py"


class Peer:
    """A process of another environment that times what it is asked to, with our settings of memory."""

    def __init__(self, python: str, threads: int) -> None:
        environment = {**os.environ, **KEEP_FREED_MEMORY, **FEWER_KERNELS, "OMP_NUM_THREADS": str(threads)}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [python, str(TIMER), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def __call__(self, what: str, **asked: Any) -> dict[str, Any]:
        """Its answer; the other sleeps meanwhile."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"what": what, **asked}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the peer ended with code {self._process.wait()}; run {TIMER} by hand to see why")
        return dict(json.loads(answer))
