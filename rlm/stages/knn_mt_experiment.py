"""From an experiment's configuration to kNN-MT's stages (imports nothing heavy)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

from rlm.data.parallel_config import (
    PairTokenizerConfig,
    ParallelConfig,
    PhrasebookSource,
    PretrainedPairTokenizer,
    TrainedPairTokenizer,
    files_of,
)
from rlm.errors import nearest
from rlm.limits import Names
from rlm.models.translation_config import (
    DecodingConfig,
    NearestTokens,
    PretrainedTranslator,
    ScratchTranslator,
    TranslationDatastore,
    TranslationTraining,
    TranslatorConfig,
)
from rlm.retrieval.config import ExactIndex, FaissFlat, FaissIvfPq
from rlm.stages.checkpoint_checks import width_of
from rlm.stages.checkpoint_rules import knn_mt_checkpoints
from rlm.stages.checks import check_search, check_training, search_in_words
from rlm.stages.columns import Column, corpus_metric, tokens_per_second
from rlm.stages.stage import Stage

OWN, WRONG = "own", "wrong"
SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}"
"""sacrebleu's, of BLEU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainConfig:
    """A domain to translate."""

    train: ParallelConfig
    """Pairs for datastores, and to train on."""
    test: ParallelConfig
    """Pairs that are translated and scored."""
    elsewhere: str
    """The domain whose test pairs tell what a datastore costs outside its own."""
    wrong: str | None = None
    """The domain of the datastore `wrong`, which only tables with such a row need."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnnMtExperiment:
    """Everything that identifies one cell of a kNN-MT table, but for data set and seed."""

    domains: dict[str, DomainConfig]
    """By name; each is a data set of the table."""
    training: Names = ()
    """Domains whose training pairs the model and the tokenizer learn from; none for checkpoints."""
    tokenizer: PairTokenizerConfig = field(default_factory=TrainedPairTokenizer)
    model: TranslatorConfig = field(default_factory=ScratchTranslator)
    train: TranslationTraining | None = None
    """None for checkpoints."""
    datastore: TranslationDatastore = field(default_factory=TranslationDatastore)
    search: ExactIndex | FaissFlat | FaissIvfPq = field(default_factory=ExactIndex)
    """With `ivf_pq`, `rerank` times k keys are found, and their distances computed again from the full keys; 0 keeps
    the quantised distances."""
    decode: DecodingConfig = field(default_factory=DecodingConfig)


def knn_mt_datasets(experiment: KnnMtExperiment) -> tuple[str, ...]:
    """The domains."""
    return tuple(experiment.domains)


def knn_mt_columns(experiment: KnnMtExperiment) -> tuple[Column, ...]:
    """What the evaluation measures; no table is shown without what a datastore costs outside its domain."""
    return (
        corpus_metric("bleu", "BLEU", role="score"),
        corpus_metric("bleu", "BLEU elsewhere", role="elsewhere_score", name="elsewhere_bleu", always=True),
        corpus_metric("chrf", "chrF", role="score"),
        corpus_metric("chrf", "chrF elsewhere", role="elsewhere_score", name="elsewhere_chrf"),
        tokens_per_second(role="translate", units="sentences"),
    )


def knn_mt_measured_on(experiment: KnnMtExperiment, dataset: str) -> str:
    """The test sentences, and all that the figures depend on, in words."""
    decode, knn, domain = experiment.decode, experiment.decode.knn, experiment.domains[dataset]
    longest = {name: experiment.domains[name].test.longest for name in (dataset, domain.elsewhere)}
    settings = f"k = {knn.k}, T = {knn.temperature:g}, lambda = {knn.weight:g}, {search_in_words(experiment.search)}"
    parts = [
        f"the test pairs of {dataset}, elsewhere those of {domain.elsewhere}",
        *(f"of {name} up to {tokens} tokens" for name, tokens in longest.items() if tokens is not None),
        f"BLEU {SIGNATURE.format(version=version('sacrebleu'))}",
        f"beams of {decode.beams}",
        *([settings] if knn.weight else []),
    ]
    return "; ".join(parts)


def knn_mt_stages(
    experiment: KnnMtExperiment, dataset: str, seed: int, content: Callable[[Any], str]
) -> dict[str, Stage]:
    """The stages of one cell by role; equal stages of other cells have equal keys. Arguments as of `realm_stages`.

    What reads no datastore does not depend on any: the model alone is translated with once.
    """
    e = experiment
    of_checkpoint = "" if isinstance(e.model, ScratchTranslator) else content(e.model)
    # texts that it cannot read are refused before anything is trained
    reader = e.model.max_positions if isinstance(e.model, ScratchTranslator) else e.model
    first: dict[str, Stage] = {}

    def text(*domains: tuple[str, ParallelConfig]) -> Stage:
        digests = "".join(_content(pairs, content) for _, pairs in domains)
        # a single text is the same whatever its domain is called
        config = {"pairs": dict(domains) if len(domains) > 1 else {"": domains[0][1]}, "reader": reader}
        if first:
            return Stage(name="parallel", config=config, inputs=first, content=digests)
        if isinstance(e.tokenizer, PretrainedPairTokenizer):
            digests += content(e.tokenizer)
        return Stage(name="parallel", config={**config, "tokenizer": e.tokenizer}, content=digests)

    model: dict[str, Stage] = {}
    stages: dict[str, Stage] = {}
    if e.train is not None:
        training = text(*((name, e.domains[name].train) for name in e.training))
        if not isinstance(e.tokenizer, PretrainedPairTokenizer):
            first["tokenizer"] = training
        trained = Stage(
            name="mt_train", config={"model": e.model, "train": e.train}, inputs={"text": training}, seed=seed
        )
        model["model"] = trained
        stages |= {"training_text": training, "train": trained}
    retrieved: dict[str, Stage] = {}
    decode, search = e.decode, e.search
    # which pairs are read, the inputs tell
    settings = replace(e.datastore, of=(OWN,), fraction=1.0)
    if decode.knn.weight:
        for number, domain in enumerate(dict.fromkeys(_domain(e, dataset, name) for name in e.datastore.of)):
            pairs = e.domains[domain].train
            pairs = replace(pairs, fraction=pairs.fraction * e.datastore.fraction)
            retrieved[f"datastore_{number}"] = Stage(
                name="mt_datastore",
                config={"model": e.model, "datastore": settings},
                inputs={"text": text((domain, pairs)), **model},
                content=of_checkpoint,
            )
    else:
        decode, settings = replace(decode, knn=NearestTokens(weight=0.0)), TranslationDatastore()
        search = ExactIndex()
    if retrieved and isinstance(search, FaissIvfPq):
        retrieved["index"] = Stage(name="datastore_index", config=search.built, inputs=dict(retrieved))
    for role, domain in (("", dataset), ("elsewhere_", e.domains[dataset].elsewhere)):
        test = text((domain, e.domains[domain].test))
        translate = Stage(
            name="mt_translate",
            config={"model": e.model, "key": settings.key, "search": search, "decode": decode},
            inputs={"text": test, **model, **retrieved},
            content=of_checkpoint,
        )
        score = Stage(name="mt_score", config={"sacrebleu": version("sacrebleu")}, inputs={"translations": translate})
        stages |= {f"{role}test": test, f"{role}translate": translate, f"{role}score": score}
    return stages | retrieved


def _domain(e: KnnMtExperiment, dataset: str, name: str) -> str:
    """The domain that `own`, `wrong` or a name means."""
    found = {OWN: dataset, WRONG: e.domains[dataset].wrong}.get(name, name)
    assert found is not None, "checked"
    return found


def _content(pairs: ParallelConfig, content: Callable[[Any], str]) -> str:
    return "" if isinstance(pairs.source, PhrasebookSource) else content(files_of(pairs.source))


def check_knn_mt(experiment: KnnMtExperiment) -> list[str]:
    """What does not fit together, each as `dotted.name: what was found and what to write instead`."""
    return [*_names(experiment), *_model(experiment), *knn_mt_checkpoints(experiment), *_numbers(experiment)]


def _names(e: KnnMtExperiment) -> list[str]:
    mistakes = []
    named = [("training", name) for name in e.training]
    named += [("datastore.of", name) for name in e.datastore.of if name not in (OWN, WRONG)]
    for name, domain in e.domains.items():
        named.append((f"domains.{name}.elsewhere", domain.elsewhere))
        named += [] if domain.wrong is None else [(f"domains.{name}.wrong", domain.wrong)]
        if name in (domain.elsewhere, domain.wrong) or domain.wrong == domain.elsewhere:
            mistakes.append(
                f"domains.{name}: the domain, `elsewhere` ({domain.elsewhere}) and `wrong` ({domain.wrong}) must be"
                " different, or what a datastore costs outside its domain is not seen"
            )
        if WRONG in e.datastore.of and domain.wrong is None:
            mistakes.append(f"domains.{name}.wrong: none, but `datastore.of` asks for `wrong`; name a domain")
        mistakes += [*_shares(f"domains.{name}.train", domain.train), *_shares(f"domains.{name}.test", domain.test)]
    for place, name in named:
        if name not in e.domains:
            mistakes.append(f"{place}: no domain `{name}`; {nearest(name, e.domains)}")
    if len(set(e.datastore.of)) < len(e.datastore.of):
        mistakes.append(f"datastore.of: found {list(e.datastore.of)}; name each once")
    if not e.datastore.of:
        mistakes.append("datastore.of: names no domain; write [own], or `decode.knn.weight: 0` for the model alone")
    return mistakes


def _shares(name: str, pairs: ParallelConfig) -> list[str]:
    low, high = pairs.part
    mistakes = []
    if not 0 <= low < high <= 1:
        mistakes.append(f"{name}.part: found {list(pairs.part)}; write two numbers, 0 <= from < to <= 1")
    if not 0 < pairs.fraction <= 1:
        mistakes.append(f"{name}.fraction: found {pairs.fraction}; write a share above 0, at most 1")
    if pairs.longest is not None and pairs.longest < 1:
        mistakes.append(f"{name}.longest: found {pairs.longest}; write a number of tokens, or null")
    return mistakes


def _model(e: KnnMtExperiment) -> list[str]:
    mistakes = []
    if isinstance(e.model, PretrainedTranslator):
        if e.train is not None or e.training:
            mistakes.append("train: a checkpoint stays as it is; leave out `train` and `training`")
        if not isinstance(e.tokenizer, PretrainedPairTokenizer):
            mistakes.append(
                f"tokenizer.kind: found {e.tokenizer.kind}, but the model is a checkpoint with a vocabulary of its own;"
                f" write {{kind: pretrained, name: {e.model.name}}}"
            )
        elif e.tokenizer.name != e.model.name:
            mistakes.append(
                f"tokenizer.name: found {e.tokenizer.name}, but the model reads its own; write {e.model.name}"
            )
        return mistakes
    if e.train is None or not e.training:
        return ["train: a model from scratch has to be trained; write `train` and the domains of `training`"]
    mistakes += check_training("train.training", e.train.training)
    if not 0 <= e.train.label_smoothing < 1:
        mistakes.append(f"train.label_smoothing: found {e.train.label_smoothing}; write a share from 0 to below 1")
    width, heads = e.model.hidden_size, e.model.heads
    if e.model.layers < 1:
        mistakes.append(f"model.layers: found {e.model.layers}; write at least 1")
    if heads < 1 or width < 1 or width % heads or width % 2:
        mistakes.append(f"model.hidden_size: {width} is no even multiple of {heads} heads; change one of them")
    if e.decode.max_tokens >= e.model.max_positions:
        mistakes.append(
            f"decode.max_tokens: {e.decode.max_tokens} tokens, the model writes fewer than {e.model.max_positions};"
            " lower it, or raise model.max_positions"
        )
    return mistakes


def _numbers(e: KnnMtExperiment) -> list[str]:
    mistakes = []
    knn = e.decode.knn
    if not 0 <= knn.weight <= 1:
        mistakes.append(f"decode.knn.weight: lambda is {knn.weight}; write a number from 0 (the model alone) to 1")
    if not knn.temperature > 0:
        mistakes.append(f"decode.knn.temperature: found {knn.temperature}; write a number above 0, such as 10")
    width = e.model.hidden_size if isinstance(e.model, ScratchTranslator) else width_of(e.model)
    mistakes += check_search("search", e.search, width)
    if not 0 < e.datastore.fraction <= 1:
        mistakes.append(f"datastore.fraction: found {e.datastore.fraction}; write a share above 0, at most 1")
    for name, value in (
        ("decode.knn.k", knn.k),
        ("decode.beams", e.decode.beams),
        ("decode.max_tokens", e.decode.max_tokens),
        ("decode.batch_size", e.decode.batch_size),
        ("datastore.batch_size", e.datastore.batch_size),
    ):
        if value < 1:
            mistakes.append(f"{name}: found {value}; write at least 1")
    return mistakes
