"""Stage: the passage index of a retriever."""

from pathlib import Path
from typing import Any

from rlm.retrieval.refresh import build_snapshot_index
from rlm.stages.stage import Context
from rlm.stages.training import accelerator


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `index/` and `embeddings.npy` (float32, [passages, dim])."""
    build_snapshot_index(
        inputs["retriever"], inputs["corpus"], config["index"], out=folder, device=accelerator(context.runtime)
    )
    return {}
