"""Runs a function in two processes that share a gloo group."""

import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed


def _in_group(rendezvous: str, rank: int, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    try:
        return function(*arguments)
    finally:
        torch.distributed.destroy_process_group()


def in_two_processes(function: Callable[..., Any], arguments: Sequence[Sequence[Any]]) -> list[Any]:
    """What `function` returns for each of two lists of arguments, called in a process each."""
    # Forked, so that neither imports torch again: that would take longer than the test.
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        rendezvous = (Path(folder) / "rendezvous").as_uri()
        results = [pool.submit(_in_group, rendezvous, rank, function, own) for rank, own in enumerate(arguments)]
        return [result.result(timeout=60) for result in results]
