"""Stage: the nearest keys of datastores for every key of a text that is evaluated."""

import json
from pathlib import Path
from typing import Any

from rlm.models.knn_config import KnnSearchConfig
from rlm.retrieval.config import ExactIndex
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.datastore_search import open_search
from rlm.retrieval.faiss_indexes import import_faiss
from rlm.retrieval.knn_table import KnnTable, write_knn
from rlm.stages.datastore import MADE_OF, describe
from rlm.stages.stage import Context
from rlm.stages.training import accelerator

SPEED = "speed.jsonl"


def run(config: KnnSearchConfig, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes what `KnnTable.open` reads, and `speed.jsonl` (id, tokens, seconds); an interrupted run goes on.

    Raises:
        ValueError: datastores of another model or key function than the text's, or fewer than k keys.
    """
    made_of = {role: name for role, name in describe(inputs["queries"]).items() if role in MADE_OF}
    queries, store = Datastore.open(inputs["queries"] / "datastore", whole=False), open_stores(inputs, **made_of)
    if config.k > len(store):
        raise ValueError(f"search.k: {config.k} neighbours of a datastore of {len(store)} keys; write at most so many")
    if not isinstance(config.index, ExactIndex):
        import_faiss().omp_set_num_threads(context.threads)
    search = open_search(config.index, store, inputs.get("index"), searching(context))
    write_knn(folder, queries, store, search, config.k, made_of, context.progress)
    table = KnnTable.open(folder)
    with (folder / SPEED).open("w", encoding="utf-8") as file:
        for number, (tokens, seconds) in enumerate(table.blocks):
            file.write(json.dumps({"id": f"block {number}", "tokens": tokens, "seconds": seconds}) + "\n")
    return {
        "queries": float(len(table)),
        "mean_nearest_distance": float(table.distances[:, 0].mean(dtype=float)),
        "tokens_per_second": len(table) / sum(seconds for _, seconds in table.blocks),
    }


def searching(context: Context) -> list[str]:
    """The devices that search together."""
    several = accelerator(context.runtime) == "cuda"
    return [f"cuda:{number}" for number in range(context.runtime.devices)] if several else ["cpu"]


def open_stores(inputs: dict[str, Path], **made_of: Any) -> Datastore:
    """The inputs `datastore`, `datastore_2`, ... as one."""
    roles = sorted((role for role in inputs if role.startswith("datastore")), key=lambda role: (len(role), role))
    return Datastore.joined([Datastore.open(inputs[role] / "datastore", whole=False, **made_of) for role in roles])
