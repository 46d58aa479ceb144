"""A small text with a retrieval corpus and neighbours, as the stages before RETRO's write them."""

from dataclasses import dataclass
from pathlib import Path

from rlm.data.config import DocumentsConfig, EncyclopediaSource, TrainedByteTokenizer
from rlm.models.config import Training
from rlm.models.retro_config import NeighbourEncoderConfig, RetroConfig, RetroTrainConfig, ScratchDecoder
from rlm.retrieval.config import Bm25, ChunkIndexConfig, NeighboursConfig
from rlm.stages import chunk_index, documents, neighbours, retro_train
from tests.worlds import Surroundings

M, WINDOW, STEPS = 16, 48, 20
CORPUS = EncyclopediaSource(entities=40)
NEWS = EncyclopediaSource(entities=40, stream="news")
MODEL = RetroConfig(
    decoder=ScratchDecoder(layers=2, hidden_size=16, heads=2, initial_std=0.2),
    encoder=NeighbourEncoderConfig(layers=1, hidden_size=16, heads=2),
    chunk_tokens=M,
    initial_std=0.2,
)
TRAIN = RetroTrainConfig(
    training=Training(steps=STEPS, batch_size=8, learning_rate=1e-2, warmup_steps=2, precision="float32"),
    tokens=WINDOW,
)


@dataclass(frozen=True)
class RetroWorld:
    """Folders of finished stages."""

    text: Path
    """Trained on."""
    measured: Path
    """Evaluated on."""
    corpus: Path
    neighbours: Path
    measured_neighbours: Path

    @property
    def training(self) -> dict[str, Path]:
        return {"text": self.text, "corpus": self.corpus, "neighbours": self.neighbours}

    def evaluation(self, model: Path) -> dict[str, Path]:
        found = {"corpus": self.corpus, "neighbours": self.measured_neighbours}
        return {"text": self.measured, "model": model, **found}


def made(folder: Path, stage, config, inputs: dict[str, Path]) -> Path:
    folder.mkdir(parents=True)
    stage.run(config, inputs, folder, Surroundings())
    return folder


def write_retro_world(folder: Path, k: int = 3) -> RetroWorld:
    tokenizer = TrainedByteTokenizer(vocab_size=400)
    first = {"documents": DocumentsConfig(source=NEWS, part=(0.0, 0.7)), "tokenizer": tokenizer}
    text = made(folder / "documents-text", documents, first, {})
    other = {"tokenizer": text}
    corpus = {"documents": DocumentsConfig(source=CORPUS, join="by_id_prefix")}
    corpus = made(folder / "documents-corpus", documents, corpus, other)
    measured = {"documents": DocumentsConfig(source=NEWS, part=(0.7, 1.0))}
    measured = made(folder / "documents-measured", documents, measured, other)
    index = ChunkIndexConfig(chunk_tokens=M, index=Bm25())
    index = made(folder / "chunk_index-bm25", chunk_index, index, {"corpus": corpus})
    found = [
        made(
            folder / f"neighbours-{each.name}",
            neighbours,
            NeighboursConfig(k=k),
            {"text": each, "corpus": corpus, "index": index},
        )
        for each in (text, measured)
    ]
    return RetroWorld(text, measured, corpus, *found)


def train(folder: Path, inputs: dict[str, Path], model=MODEL, settings=TRAIN, context=None) -> Path:
    """The stage `retro_train`; called again with a folder that is there, it goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    retro_train.run({"model": model, "train": settings}, inputs, folder, context or Surroundings())
    return folder
