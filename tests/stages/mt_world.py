"""Pairs of sentences in two domains, a small encoder-decoder and datastores, as the stages write them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlm.data.parallel_config import ParallelConfig, PhrasebookSource, TrainedPairTokenizer
from rlm.models.config import Training
from rlm.models.translation_config import (
    DecodingConfig,
    NearestTokens,
    ScratchTranslator,
    TranslationDatastore,
    TranslationTraining,
)
from rlm.retrieval.config import ExactIndex
from rlm.stages import mt_datastore, mt_score, mt_train, mt_translate, parallel
from tests.worlds import Surroundings

MODEL = ScratchTranslator(layers=1, hidden_size=32, heads=2, dropout=0.0, max_positions=48, initial_std=0.08)
TRAIN = TranslationTraining(
    training=Training(steps=40, batch_size=16, learning_rate=5e-3, warmup_steps=5, precision="float32"),
    label_smoothing=0.0,
)
DECODE = DecodingConfig(beams=2, max_tokens=24, batch_size=8, knn=NearestTokens(weight=0.6, k=4, temperature=5.0))
ALONE = replace(DECODE, knn=NearestTokens(weight=0.0))


def book(domain: str = "general", split: str = "train", sentences: int = 200) -> ParallelConfig:
    return ParallelConfig(source=PhrasebookSource(domain=domain, split=split, sentences=sentences, words=60))


def made(folder: Path, stage: Any, config: Any, inputs: dict[str, Path]) -> Path:
    """A finished stage; one whose folder is there goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    stage.run(config, inputs, folder, Surroundings())
    return folder


@dataclass(frozen=True)
class TranslationWorld:
    """Folders of finished stages."""

    text: Path
    law: Path
    test: Path
    model: Path
    datastore: Path
    """Of `law`."""


def datastore(folder: Path, text: Path, model: Path, settings: TranslationDatastore = TranslationDatastore()) -> Path:  # noqa: B008
    return made(folder, mt_datastore, {"model": MODEL, "datastore": settings}, {"text": text, "model": model})


def translate(folder: Path, world: TranslationWorld, decode: DecodingConfig, **stores: Path) -> Path:
    config = {"model": MODEL, "key": "ffn_input", "search": ExactIndex(), "decode": decode}
    return made(folder, mt_translate, config, {"text": world.test, "model": world.model, **stores})


def score(folder: Path, translations: Path) -> Path:
    return made(folder, mt_score, {"sacrebleu": "any"}, {"translations": translations})


def write_translation_world(folder: Path) -> TranslationWorld:
    reader = {"reader": MODEL.max_positions}
    first = {"pairs": {"": book()}, "tokenizer": TrainedPairTokenizer(vocab_size=400), **reader}
    text = made(folder / "parallel-text", parallel, first, {})
    law, test = (
        made(folder / f"parallel-{name}", parallel, {"pairs": {"": pairs}, **reader}, {"tokenizer": text})
        for name, pairs in (("law", book("law")), ("test", book("law", "test", 20)))
    )
    model = made(folder / "mt_train-model", mt_train, {"model": MODEL, "train": TRAIN}, {"text": text})
    return TranslationWorld(text, law, test, model, datastore(folder / "mt_datastore-law", law, model))
