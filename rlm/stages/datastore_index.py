"""Stage: the keys of datastores in a faiss index."""

from pathlib import Path
from typing import Any

from rlm.retrieval.datastore_search import build_faiss, save_faiss
from rlm.retrieval.faiss_indexes import import_faiss
from rlm.stages.knn_search import open_stores
from rlm.stages.stage import Context


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes the index.

    Raises:
        ValueError: datastores of different models, or too few keys.
    """
    store = open_stores(inputs)
    import_faiss().omp_set_num_threads(context.threads)
    save_faiss(build_faiss(config, store), folder)
    return {"keys": float(len(store))}
