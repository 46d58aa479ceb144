"""Stage: REALM pre-training."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from rlm.callbacks.index_refresh import IndexRefresher
from rlm.callbacks.masking import Masking
from rlm.data.config import SalientSpans
from rlm.data.corpus import Corpus
from rlm.data.datamodules import MaskedSentences
from rlm.data.salient_spans import SalientSpanTable
from rlm.data.tokens import Ragged
from rlm.models.realm import KnowledgeAugmentedEncoder, Realm, load_encoder, save_encoder
from rlm.retrieval.encoder import DualEncoder
from rlm.stages.stage import Context
from rlm.stages.training import fit, seed_everything

PROBE_EPOCH = 1 << 20  # masks of the probe queries, drawn as of an epoch that training never reaches


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `retriever/`, `encoder/` and, where they are kept, `snapshots/<step>/`."""
    pretrain = config["pretrain"]
    corpus, text = Corpus.open(inputs["corpus"]), Corpus.open(inputs["text"])
    seed_everything(context)
    retriever = DualEncoder.load(inputs["retriever"] / "retriever", config["retriever"])
    if "encoder" in inputs:
        encoder = load_encoder(inputs["encoder"] / "encoder")
    else:
        encoder = KnowledgeAugmentedEncoder(config["encoder"], corpus.vocab_size)
    sentences = MaskedSentences.of(text, SalientSpanTable.open(inputs["spans"]), pretrain, context.seed)
    module = Realm(retriever, encoder, corpus, pretrain)
    refresher = IndexRefresher(
        pretrain.index_refresh,
        config["index"],
        inputs["corpus"],
        folder / "snapshots",
        probe_queries(sentences, pretrain.index_refresh.probes),
        context.log,
        keep=pretrain.keep_snapshots,
        threads=context.threads,
    )
    callbacks = [Masking(pretrain.masking), refresher]
    metrics = fit(module, sentences, pretrain.training, folder, context, callbacks)
    module.retriever.save(folder / "retriever")
    save_encoder(encoder, folder / "encoder")
    if not pretrain.keep_snapshots:
        shutil.rmtree(folder / "snapshots")
    return metrics


def probe_queries(sentences: MaskedSentences, count: int) -> Ragged:
    """Sentences with a salient span masked, the same for every scheme and seed: what agreement is measured on."""
    installed, sentences.scheme = sentences.scheme, SalientSpans()
    chosen = np.random.default_rng(0).permutation(sentences.examples)[:count]
    masked: Ragged = sentences.batch(chosen, PROBE_EPOCH)["masked"]
    sentences.scheme = installed
    return masked
