"""From an experiment's configuration to kNN-LM's stages (imports nothing heavy)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import exp
from typing import Any

from rlm.data.config import DocumentsConfig, TextTokenizerConfig, TrainedByteTokenizer
from rlm.models.knn_config import (
    DatastoreConfig,
    KnnEvaluateConfig,
    KnnSearchConfig,
    LanguageModelConfig,
)
from rlm.models.retro_config import RetroConfig, RetroTrainConfig, ScratchDecoder
from rlm.retrieval.config import FaissIvfPq
from rlm.stages.checks import search_in_words
from rlm.stages.columns import (
    Against,
    Column,
    Examples,
    HeatMap,
    bits_per_byte,
    perplexity,
    read_beside,
    tokens_helped,
    tokens_per_second,
)
from rlm.stages.experiment import outside_content
from rlm.stages.stage import Stage
from rlm.stages.text_stages import documents_stage


def _over_lambda_and_k(grid: Mapping[str, Any]) -> tuple[list[float], list[float], list[list[float]]]:
    """Perplexity at the best temperature."""
    found = [[min(by) for by in zip(*temperatures, strict=True)] for temperatures in grid["perplexity"]]
    return grid["weight"], grid["k"], found


def _example(line: Mapping[str, Any]) -> list[str]:
    near = "; ".join(
        f"{each['context']} [{each['token']}] ({each['distance']:.3g}, {each['id']})" for each in line["neighbours"]
    )
    return [
        line["why"],
        f"{line['context']} [{line['token']}]",
        near,
        *(f"{exp(line[p]):.3g}" for p in ("lm", "mixed")),
    ]


KNN_LM_AGAINST = (
    Against(title="Perplexity by the size of the datastore", y="perplexity", x="keys"),
    Against(title="Tokens helped by the size of the datastore", y="tokens_helped", x="keys"),
)
KNN_LM_HEAT_MAPS = (
    HeatMap(
        title="Perplexity of the development text over lambda and k, at the best temperature",
        role="knn_evaluate",
        file="grid.json",
        x_label="lambda",
        y_label="k",
        read=_over_lambda_and_k,
    ),
)
KNN_LM_EXAMPLES = (
    Examples(
        title="Tokens with their nearest neighbours (squared distance, document)",
        role="knn_evaluate",
        file="examples.jsonl",
        header=(
            "token that",
            "context [token]",
            "nearest contexts [their tokens]",
            "p of the model",
            "p with neighbours",
        ),
        read=_example,
        names=3,
    ),
)
TRAINING = "training"
"""Among `datastores`, the training text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnnLmExperiment:
    """Everything that identifies one cell of a kNN-LM table, but for data set and seed."""

    training_text: DocumentsConfig
    """Of the language model; its tokenizer is trained on it, too."""
    datastore_texts: dict[str, DocumentsConfig] = field(default_factory=dict)
    """Others whose keys may be searched, by name."""
    datastores: tuple[str, ...] = (TRAINING,)
    """Texts whose keys are searched, together: `training`, or names of `datastore_texts`. One more adapts to its domain
    without any training."""
    datastore_fraction: float = 1.0
    """Share of the documents of each; a smaller share is inside a larger."""
    development_texts: dict[str, DocumentsConfig]
    """By data set name: what is `tuned` is chosen on them, never on what is evaluated."""
    evaluation_texts: dict[str, DocumentsConfig]
    """By data set name."""
    tokenizer: TextTokenizerConfig = field(default_factory=TrainedByteTokenizer)
    model: LanguageModelConfig = field(default_factory=ScratchDecoder)
    train: RetroTrainConfig | None = None
    """Of a model from scratch; `k` is not read."""
    datastore: DatastoreConfig = field(default_factory=DatastoreConfig)
    search: KnnSearchConfig = field(default_factory=KnnSearchConfig)
    evaluate: KnnEvaluateConfig = field(default_factory=KnnEvaluateConfig)


def knn_lm_datasets(experiment: KnnLmExperiment) -> tuple[str, ...]:
    """The texts that models are evaluated on."""
    return tuple(experiment.evaluation_texts)


def knn_lm_columns(experiment: KnnLmExperiment) -> tuple[Column, ...]:
    """What the evaluation measures."""
    role = "knn_evaluate"
    return (
        perplexity(role=role),
        bits_per_byte(role=role),
        tokens_helped(role=role),
        read_beside("keys", "keys", role=role, decimals=0),
        read_beside("weight", "lambda", role=role, decimals=2),
        read_beside("k", "k", role=role, decimals=0),
        read_beside("temperature", "temperature", role=role, decimals=2),
        tokens_per_second(role="search", units="blocks"),
        read_beside("cache_weight", "lambda of the cache", role=role, decimals=2),
    )


def knn_lm_measured_on(experiment: KnnLmExperiment, dataset: str) -> str:
    """The documents, how much of them a prediction sees, and what is read beside the model, in words."""
    text, windows = experiment.evaluation_texts[dataset], experiment.datastore
    low, high = text.part
    share = (high - low) * text.fraction
    whole = "all documents" if share == 1 else f"{100 * share:.3g} % of the documents"
    read = f"{whole}, in windows of {windows.tokens} tokens, {windows.stride or windows.tokens} apart"
    if experiment.evaluate.knn is None:
        return read
    keys = f"{windows.key} in {windows.dtype}"
    return f"{read}; keys: {keys}, {experiment.search.k} neighbours by {search_in_words(experiment.search.index)}"


def knn_lm_stages(
    experiment: KnnLmExperiment, dataset: str, seed: int, content: Callable[[Any], str]
) -> dict[str, Stage]:
    """The stages of one cell by role; equal stages of other cells have equal keys. Arguments as of `realm_stages`.

    What a row does not read is not computed: the language model alone needs no datastore, fixed numbers no development
    text.
    """
    e = experiment
    text = documents_stage(e.training_text, e.tokenizer, content)
    stages = {"training_text": text}
    model: Any = e.model
    reads: dict[str, Stage] = {}
    outside = outside_content(model, content)
    if isinstance(model, ScratchDecoder):
        assert e.train is not None
        model = RetroConfig(decoder=model, cca_layers=(), chunk_tokens=1)
        train = replace(e.train, k=0, part="both", fit=0.0)
        config = {"model": model, "train": train}
        stages["train"] = Stage(name="retro_train", config=config, inputs={"text": text}, seed=seed, content=outside)
        reads = {"model": stages["train"]}

    def passed(documents: Stage, role: str, settings: DatastoreConfig, spoken: bool) -> Stage:
        stages[f"{role}text"] = documents
        return Stage(
            name="datastore",
            config={"model": model, "datastore": settings, "spoken": spoken},
            inputs={"text": documents, **reads},
            content="" if reads else outside,
        )

    measured = documents_stage(e.evaluation_texts[dataset], text, content)
    # float32, since a text that is evaluated is short
    asking = replace(e.datastore, dtype="float32")
    stages["queries"] = passed(measured, "evaluation_", asking, spoken=True)
    inputs = {"text": measured, "queries": stages["queries"]}
    searching: dict[str, Stage] = {}
    if e.evaluate.knn is not None:
        for number, name in enumerate(e.datastores, 1):
            role = "datastore" if number == 1 else f"datastore_{number}"
            each = e.training_text if name == TRAINING else e.datastore_texts[name]
            each = replace(each, fraction=each.fraction * e.datastore_fraction)
            read = text if each == e.training_text else documents_stage(each, text, content)
            searching[role] = stages[role] = passed(read, f"{role}_", e.datastore, spoken=False)
        if isinstance(e.search.index, FaissIvfPq):
            index = Stage(name="datastore_index", config=e.search.index.built, inputs=dict(searching))
            searching["index"] = stages["index"] = index
        found = {"queries": stages["queries"], **searching}
        inputs["search"] = stages["search"] = Stage(name="knn_search", config=e.search, inputs=found)
        inputs |= {f"{role}_text": stages[f"{role}_text"] for role in searching if role != "index"}
    if tuned(e.evaluate):
        development = documents_stage(e.development_texts[dataset], text, content)
        inputs["dev_text"] = development
        inputs["dev_queries"] = stages["dev_queries"] = passed(development, "development_", asking, spoken=True)
        if searching:
            found = {"queries": stages["dev_queries"], **searching}
            inputs["dev_search"] = stages["dev_search"] = Stage(name="knn_search", config=e.search, inputs=found)
    learned = e.evaluate.knn is not None and e.evaluate.knn.weight == "learned"
    stages["knn_evaluate"] = Stage(
        name="knn_evaluate", config=e.evaluate, inputs=inputs, seed=seed if learned else None
    )
    return stages


def tuned(evaluate: KnnEvaluateConfig) -> bool:
    """Whether anything is chosen on the development text."""
    knn, cache = evaluate.knn, evaluate.cache
    values = [] if knn is None else [knn.k, knn.temperature, knn.weight]
    return any(
        isinstance(value, str) for value in [*values, *([] if cache is None else [cache.flatness, cache.weight])]
    )
