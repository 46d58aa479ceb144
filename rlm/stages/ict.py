"""Stage: the inverse cloze task trains a retriever without questions."""

from pathlib import Path
from typing import Any

from rlm.data.corpus import Corpus
from rlm.data.datamodules import IctBatches
from rlm.models.ict import InverseCloze
from rlm.retrieval.encoder import DualEncoder
from rlm.stages.stage import Context
from rlm.stages.training import fit, seed_everything


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `retriever/`."""
    retriever_config, ict = config["retriever"], config["ict"]
    corpus = Corpus.open(inputs["corpus"])
    seed_everything(context)
    module = InverseCloze(DualEncoder(retriever_config, corpus.vocab_size), ict)
    batches = IctBatches(
        corpus,
        ict.training.batch_size,
        ict.keep_sentence,
        retriever_config.query_tokens,
        retriever_config.passage_tokens,
        context.seed,
    )
    metrics = fit(module, batches, ict.training, folder, context)
    module.retriever.save(folder / "retriever")
    return metrics
