"""A datastore that all devices of a stage write at the same time, each its own shards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing import ProcessRaisedException, start_processes

from rlm.errors import StageError
from rlm.retrieval.datastore_writer import SHARD, join_shares, shares
from rlm.stages.stage import Context
from rlm.stages.training import accelerator

DATASTORE = "datastore"
"""Folder of a datastore in that of its stage."""
Write = Callable[..., None]
"""`write(config, inputs, folder, context, device, **options)` writes what the options of a `DatastoreWriter` say. A
function of a module, for other processes import it."""


def write_datastore(
    write: Write, config: Any, inputs: dict[str, Path], folder: Path, context: Context, total: int, devices: int
) -> None:
    """Write a datastore of so many keys to `folder / DATASTORE`, with one process for each of the devices; what is
    written does not depend on their number.

    Raises:
        StageError: what a process raised.
    """
    device, written = accelerator(context.runtime), shares(total, devices, SHARD)
    if len(written) == 1:
        write(config, inputs, folder, context, device, shard=SHARD)
        return
    arguments = (write, config, inputs, folder, context, device, written, SHARD)
    try:
        # neither CUDA nor OpenMP survives a fork
        start_processes(_write_share, arguments, nprocs=len(written), start_method="spawn")
    except ProcessRaisedException as error:
        raise StageError(str(error).strip().splitlines()[-1]) from error
    join_shares(folder / DATASTORE, written, SHARD)


class _Unseen:
    """A stage's surroundings, which are told nothing: the first process tells how far all are."""

    def __init__(self, context: Context) -> None:
        self.seed, self.runtime, self.threads = context.seed, context.runtime, context.threads

    def log(self, metrics: Any, step: int) -> None: ...

    def progress(self, done: int, total: int, **shown: float) -> None: ...

    def all_read(self) -> None: ...


def _write_share(
    rank: int,
    write: Write,
    config: Any,
    inputs: dict[str, Path],
    folder: Path,
    context: Context,
    device: str,
    written: list[range],
    shard: int,
) -> None:
    torch.set_num_threads(max(1, context.threads // len(written)))
    place = f"{device}:{rank}" if device == "cuda" else device
    told = context if rank == 0 else _Unseen(context)
    write(config, inputs, folder, told, place, shard=shard, share=written[rank])
