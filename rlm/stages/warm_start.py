"""Stage: trains the masked-token head (and an encoder from scratch) beside a given passage."""

from pathlib import Path
from typing import Any

import numpy as np

from rlm.callbacks.masking import Masking
from rlm.data.corpus import Corpus
from rlm.data.datamodules import MaskedSentences
from rlm.data.salient_spans import SalientSpanTable
from rlm.data.tokens import Ragged
from rlm.models.realm import GivenPassage, KnowledgeAugmentedEncoder, reader_rows, save_encoder
from rlm.retrieval.config import Bm25
from rlm.retrieval.sparse import Bm25Index
from rlm.stages.stage import Context
from rlm.stages.training import fit, seed_everything


class GivenPassageBatches:
    """Masked sentences beside the passage that BM25 finds for the whole sentence, never the one it came from."""

    def __init__(self, sentences: MaskedSentences, corpus: Corpus, passage_tokens: int) -> None:
        self.sentences, self.corpus, self.passage_tokens = sentences, corpus, passage_tokens
        self.index = Bm25Index(corpus.tokens, Bm25())

    @property
    def scheme(self) -> Any:
        return self.sentences.scheme

    @scheme.setter
    def scheme(self, scheme: Any) -> None:
        self.sentences.scheme = scheme

    def passages(self, whole: Ragged, source: np.ndarray) -> np.ndarray:
        """Best passage of each sentence that is not its source, [batch]."""
        found = np.asarray(self.index.search(whole, 2)[1])
        own = self.corpus.identity[found[:, 0]] == source
        return np.where(own, found[:, 1], found[:, 0])

    def __call__(self, step: int, rank: int, world: int) -> dict[str, Any]:
        batch = self.sentences(step, rank, world)
        given = self.passages(batch["whole"], batch["source"])[:, None]
        rows = reader_rows(batch["masked"], self.corpus, given, self.passage_tokens, null=False)
        return {"rows": rows, "positions": batch["positions"], "targets": batch["targets"]}


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `encoder/`."""
    warm = config["warm_start"]
    corpus, text = Corpus.open(inputs["corpus"]), Corpus.open(inputs["text"])
    seed_everything(context)
    encoder = KnowledgeAugmentedEncoder(config["encoder"], corpus.vocab_size)
    sentences = MaskedSentences.of(text, SalientSpanTable.open(inputs["spans"]), warm, context.seed)
    batches = GivenPassageBatches(sentences, corpus, warm.passage_tokens)
    module = GivenPassage(encoder, warm.training)
    metrics = fit(module, batches, warm.training, folder, context, [Masking(warm.masking)])
    save_encoder(encoder, folder / "encoder")
    return metrics
