"""A small text with a language model's states, as the stages before kNN-LM's evaluation write them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from rlm.data.config import DocumentsConfig, EncyclopediaSource, TrainedByteTokenizer
from rlm.data.documents import Documents
from rlm.models.knn_config import DatastoreConfig, KnnSearchConfig
from rlm.models.retro import build_retro
from rlm.models.retro_config import RetroConfig, ScratchDecoder
from rlm.models.retro_training import save_retro
from rlm.retrieval.config import ExactIndex
from rlm.stages import datastore, documents, knn_search
from rlm.stages.retro_train import WEIGHTS
from tests.worlds import Surroundings

NEWS = EncyclopediaSource(entities=40, stream="news")
MODEL = RetroConfig(
    decoder=ScratchDecoder(layers=2, hidden_size=16, heads=2, initial_std=0.3), cca_layers=(), chunk_tokens=1
)
STORE = DatastoreConfig(tokens=24, stride=16, batch_size=4, precision="float32", dtype="float32")
K = 32


@dataclass(frozen=True)
class KnnWorld:
    """Folders of finished stages."""

    text: Path
    measured: Path
    tuned: Path
    model: Path
    datastore: Path
    queries: Path
    dev_queries: Path
    search: Path
    dev_search: Path

    @property
    def evaluation(self) -> dict[str, Path]:
        return {
            **{"text": self.measured, "queries": self.queries, "search": self.search, "datastore_text": self.text},
            **{"dev_text": self.tuned, "dev_queries": self.dev_queries, "dev_search": self.dev_search},
        }


def made(folder: Path, stage, config, inputs: dict[str, Path], context=None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stage.run(config, inputs, folder, context or Surroundings())
    return folder


def passed(folder: Path, text: Path, model: Path, spoken: bool = False, settings=STORE, context=None) -> Path:
    """The stage `datastore`."""
    config = {"model": MODEL, "datastore": settings, "spoken": spoken}
    return made(folder, datastore, config, {"text": text, "model": model}, context)


def searched(folder: Path, queries: Path, store: Path, k: int = K, index=None, context=None) -> Path:
    """The stage `knn_search`."""
    config = KnnSearchConfig(k=k, index=index or ExactIndex())
    return made(folder, knn_search, config, {"queries": queries, "datastore": store}, context)


def write_knn_world(folder: Path) -> KnnWorld:
    tokenizer = TrainedByteTokenizer(vocab_size=400)
    first = {"documents": DocumentsConfig(source=NEWS, part=(0.0, 0.6)), "tokenizer": tokenizer}
    text = made(folder / "documents-text", documents, first, {})
    parts = {"measured": (0.6, 0.8), "tuned": (0.8, 1.0)}
    measured, tuned = (
        made(
            folder / f"documents-{name}",
            documents,
            {"documents": DocumentsConfig(source=NEWS, part=part)},
            {"tokenizer": text},
        )
        for name, part in parts.items()
    )
    torch.manual_seed(0)
    model = folder / "retro_train-lm"
    model.mkdir()
    save_retro(build_retro(MODEL, Documents.open(text).vocab_size), model / WEIGHTS)
    store = passed(folder / "datastore-text", text, model)
    asked = [passed(folder / f"datastore-{each.name}", each, model, spoken=True) for each in (measured, tuned)]
    found = [searched(folder / f"knn_search-{each.name}", each, store) for each in asked]
    return KnnWorld(text, measured, tuned, model, store, *asked, *found)
