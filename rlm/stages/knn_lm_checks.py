"""Mistakes between the fields of a kNN-LM experiment, found before work starts (imports nothing heavy)."""

from collections.abc import Mapping

from rlm.data.config import DocumentsConfig, PretrainedTokenizer
from rlm.models.knn_config import PretrainedLanguageModel
from rlm.models.retro_config import ScratchDecoder
from rlm.stages.checkpoint_checks import known, width_of
from rlm.stages.checkpoint_rules import knn_lm_checkpoints
from rlm.stages.checks import check_search, check_training
from rlm.stages.knn_lm_experiment import TRAINING, KnnLmExperiment, tuned
from rlm.stages.text_stages import check_documents, check_windows


def check_knn_lm(experiment: KnnLmExperiment) -> list[str]:
    """What does not fit together, each as `dotted.name: what was found and what to write instead`."""
    e = experiment
    texts: dict[str, DocumentsConfig] = {"training_text": e.training_text}
    named: Mapping[str, Mapping[str, DocumentsConfig]] = {
        "development_texts": e.development_texts,
        "evaluation_texts": e.evaluation_texts,
        "datastore_texts": e.datastore_texts,
    }
    texts |= {f"{where}.{name}": text for where, some in named.items() for name, text in some.items()}
    mistakes = [mistake for name, text in texts.items() for mistake in check_documents(name, text)]
    mistakes += check_windows("datastore.tokens", e.datastore.tokens, 1, e.datastore.stride)
    if e.datastore.batch_size < 1:
        mistakes.append(f"datastore.batch_size: found {e.datastore.batch_size}; write at least 1")
    absent = sorted(set(e.evaluation_texts) - set(e.development_texts))
    if tuned(e.evaluate) and absent:
        mistakes.append(f"development_texts: none of {', '.join(absent)}, on which to tune; name one, or write numbers")
    return mistakes + _apart(e) + _datastores(e) + _model(e) + knn_lm_checkpoints(e) + _search(e) + _interpolation(e)


def _apart(e: KnnLmExperiment) -> list[str]:
    """What is evaluated is not to be seen anywhere else."""
    searched = {f"datastore_texts.{name}": e.datastore_texts.get(name) for name in e.datastores if name != TRAINING}
    mistakes = []
    for dataset, measured in e.evaluation_texts.items():
        seen = {f"development_texts.{dataset}": e.development_texts.get(dataset), "training_text": e.training_text}
        for name, text in (seen | searched).items():
            if text is None or text.exclude is not None or text.source != measured.source:
                continue
            low, high = max(measured.part[0], text.part[0]), min(measured.part[1], text.part[1])
            if low < high:
                mistakes.append(
                    f"{name}.part: documents from {low:g} to {high:g} of the source are evaluated as {dataset}, too;"
                    " take others"
                )
    return mistakes


def _datastores(e: KnnLmExperiment) -> list[str]:
    mistakes = []
    known = [TRAINING, *e.datastore_texts]
    unknown = [name for name in e.datastores if name not in known]
    if unknown or not e.datastores or len(set(e.datastores)) < len(e.datastores):
        mistakes.append(f"datastores: found {list(e.datastores)}; name one or more of {', '.join(known)}, each once")
    if not 0 < e.datastore_fraction <= 1:
        mistakes.append(f"datastore_fraction: found {e.datastore_fraction}; write a share above 0, at most 1")
    return mistakes


def _model(e: KnnLmExperiment) -> list[str]:
    if isinstance(e.model, PretrainedLanguageModel):
        if not isinstance(e.tokenizer, PretrainedTokenizer):
            return [
                f"tokenizer.kind: found {e.tokenizer.kind}, but the language model is a checkpoint with a vocabulary of"
                f" its own; write {{kind: pretrained, name: {e.model.name}}}"
            ]
        if e.tokenizer.name != e.model.name:
            return [
                f"tokenizer.name: found {e.tokenizer.name}, but the language model reads its own; write {e.model.name}"
            ]
        found = known(e.model)
        if found is not None and found.positions is not None and e.datastore.tokens > found.positions:
            return [
                f"datastore.tokens: windows of {e.datastore.tokens} tokens, {e.model.name} has {found.positions}"
                " positions; write at most so many, and a `stride` below"
            ]
        return []
    if e.train is None:
        return ["train: none, but the language model is from scratch; say how to train it"]
    mistakes = check_training("train.training", e.train.training)
    if e.train.tokens < 2:
        mistakes.append(f"train.tokens: found {e.train.tokens}; write at least 2")
    if e.model.layers < 1:
        mistakes.append(f"model.layers: found {e.model.layers}; write at least 1")
    if e.model.heads < 1 or e.model.hidden_size < 1 or e.model.hidden_size % (2 * e.model.heads):
        mistakes.append(
            f"model.hidden_size: {e.model.hidden_size} is no multiple of 2 * heads ({e.model.heads}), as rotary"
            " positions need"
        )
    return mistakes


def _search(e: KnnLmExperiment) -> list[str]:
    mistakes = []
    if e.search.k < 1:
        mistakes.append(f"search.k: found {e.search.k}; write at least 1")
    width = e.model.hidden_size if isinstance(e.model, ScratchDecoder) else width_of(e.model)
    return mistakes + check_search("search.index", e.search.index, width)


def _interpolation(e: KnnLmExperiment) -> list[str]:
    knn, cache = e.evaluate.knn, e.evaluate.cache
    mistakes = []
    if knn is not None and not isinstance(knn.k, str) and not 1 <= knn.k <= e.search.k:
        mistakes.append(f"evaluate.knn.k: {knn.k} neighbours, of {e.search.k} searched; write 1 to {e.search.k}")
    if knn is not None and not isinstance(knn.temperature, str) and not knn.temperature > 0:
        mistakes.append(f"evaluate.knn.temperature: found {knn.temperature}; write a number above 0, or `tuned`")
    for name, part in (("knn", knn), ("cache", cache)):
        if part is not None and not isinstance(part.weight, str) and not 0 <= part.weight <= 1:
            mistakes.append(f"evaluate.{name}.weight: found {part.weight}; lambda lies in [0, 1]")
    if cache is not None and not isinstance(cache.flatness, str) and not cache.flatness >= 0:
        mistakes.append(f"evaluate.cache.flatness: found {cache.flatness}; write a number from 0 on, or `tuned`")
    if cache is not None and cache.tokens < 1:
        mistakes.append(f"evaluate.cache.tokens: found {cache.tokens}; write at least 1")
    return mistakes
