"""From an experiment's configuration to RETRO's stages (imports nothing heavy)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from rlm.data.config import DocumentsConfig, PretrainedTokenizer, TextTokenizerConfig, TrainedByteTokenizer
from rlm.models.retro_config import (
    LeakageConfig,
    PerplexityConfig,
    RetroConfig,
    RetroTrainConfig,
    ScratchDecoder,
    attending_layers,
)
from rlm.retrieval.config import ChunkIndexConfig, NeighboursConfig
from rlm.stages.checkpoint_rules import retro_checkpoints
from rlm.stages.checks import check_training
from rlm.stages.columns import Column, ColumnCurve, bits_per_byte, leakage_columns, leakage_curve, perplexity
from rlm.stages.experiment import outside_content
from rlm.stages.stage import Stage
from rlm.stages.text_stages import check_chunks, check_documents, check_windows, documents_stage, neighbours_stages


@dataclass(frozen=True, kw_only=True, slots=True)
class RetroExperiment:
    """Everything that identifies one cell of a RETRO table, but for data set and seed."""

    training_text: DocumentsConfig
    corpus: DocumentsConfig | None = None
    """Documents whose chunks are retrieved; None takes the training text itself."""
    evaluation_texts: dict[str, DocumentsConfig]
    """By data set name."""
    tokenizer: TextTokenizerConfig = field(default_factory=TrainedByteTokenizer)
    """Of all texts; a trained one has read the training text, or its own `source`."""
    chunks: ChunkIndexConfig
    neighbours: NeighboursConfig = field(default_factory=NeighboursConfig)
    """How many are computed; training and evaluation may read fewer."""
    model: RetroConfig = field(default_factory=RetroConfig)
    train: RetroTrainConfig
    evaluate: PerplexityConfig = field(default_factory=PerplexityConfig)
    leakage: LeakageConfig = field(default_factory=LeakageConfig)


def retro_datasets(experiment: RetroExperiment) -> tuple[str, ...]:
    """The texts that models are evaluated on."""
    return tuple(experiment.evaluation_texts)


def retro_columns(experiment: RetroExperiment) -> tuple[Column, ...]:
    """What the evaluation measures."""
    leakage = leakage_columns(experiment.leakage.thresholds, role="leakage")
    return (bits_per_byte(role="perplexity"), perplexity(role="perplexity"), *leakage)


def retro_curves(experiment: RetroExperiment) -> tuple[ColumnCurve, ...]:
    """What leakage does to the figures."""
    return (leakage_curve(experiment.leakage.thresholds),)


def retro_measured_on(experiment: RetroExperiment, dataset: str) -> str:
    """The documents, and how much of them a prediction sees, in words."""
    text, evaluate, m = experiment.evaluation_texts[dataset], experiment.evaluate, experiment.model.chunk_tokens
    low, high = text.part
    share = (high - low) * text.fraction
    stride = evaluate.stride or evaluate.tokens // m * m
    whole = "all documents" if share == 1 else f"{100 * share:.3g} % of the documents"
    return f"{whole}, in windows of {evaluate.tokens} tokens, {stride} apart"


Reading = TypeVar("Reading", RetroTrainConfig, PerplexityConfig)


def _read(experiment: RetroExperiment, config: Reading) -> Reading:
    """What is left of a configuration where no neighbour, or no layer that could attend to one, is read."""
    if config.k and experiment.model.cca_layers != ():
        return config
    alone = replace(config, k=0, part="both")
    return replace(alone, fit=0.0) if isinstance(alone, RetroTrainConfig) else alone


def training_stages(experiment: RetroExperiment, seed: int, content: Callable[[Any], str]) -> dict[str, Stage]:
    """The stages up to a trained model, by role."""
    e = experiment
    training = _read(e, e.train)
    text = documents_stage(e.training_text, e.tokenizer, content)
    corpus = text if e.corpus is None else documents_stage(e.corpus, text, content)
    index, neighbours = neighbours_stages(e.chunks, e.neighbours, text, corpus, content)
    retrieved = {"corpus": corpus, "neighbours": neighbours}

    def trained(model: RetroConfig, train: RetroTrainConfig, inputs: dict[str, Stage]) -> Stage:
        return Stage(
            name="retro_train",
            config={"model": model, "train": train},
            inputs={"text": text, **(retrieved if train.k else {}), **inputs},
            seed=seed,
            content=outside_content(model.decoder, content),
        )

    fitted: dict[str, Stage] = {}
    if training.fit:
        # The row of the language model trains the same, and shares it.
        fitted["base"] = trained(replace(e.model, cca_layers=()), replace(training, k=0, part="both", fit=0.0), {})
        whole = training.training
        steps = max(1, round(training.fit * whole.steps))
        warmup = steps // 10 if whole.warmup_steps is None else round(training.fit * whole.warmup_steps)
        training = replace(training, training=replace(whole, steps=steps, warmup_steps=warmup), fit=0.0)
    return {
        "training_text": text,
        "corpus": corpus,
        "index": index,
        "neighbours": neighbours,
        **fitted,
        "train": trained(e.model, training, fitted),
    }


def retro_stages(
    experiment: RetroExperiment, dataset: str, seed: int, content: Callable[[Any], str]
) -> dict[str, Stage]:
    """The stages of one cell by role; equal stages of other cells have equal keys. Arguments as of `realm_stages`.

    What reads no neighbours does not depend on them: a language model is shared by rows with other corpora. Leakage is
    measured by the row's own neighbours even there, so that rows are compared on the same chunks.
    """
    e = experiment
    evaluation, stages = _read(e, e.evaluate), training_stages(e, seed, content)
    corpus = stages["corpus"]
    measured = documents_stage(e.evaluation_texts[dataset], stages["training_text"], content)
    _, measured_neighbours = neighbours_stages(e.chunks, e.neighbours, measured, corpus, content)
    found = {"corpus": corpus, "neighbours": measured_neighbours} if evaluation.k else {}
    evaluate = Stage(
        name="perplexity",
        config={"model": e.model, "evaluate": evaluation},
        inputs={"text": measured, "model": stages["train"], **found},
    )
    leakage = Stage(
        name="leakage",
        config={"neighbours": e.neighbours, "leakage": e.leakage},
        inputs={"text": measured, "corpus": corpus, "neighbours": measured_neighbours, "perplexity": evaluate},
    )
    return {
        **stages,
        "evaluation_text": measured,
        "evaluation_neighbours": measured_neighbours,
        "perplexity": evaluate,
        "leakage": leakage,
    }


def check_retro(experiment: RetroExperiment) -> list[str]:
    """What does not fit together, each as `dotted.name: what was found and what to write instead`."""
    e = experiment
    texts = {f"evaluation_texts.{name}": text for name, text in e.evaluation_texts.items()}
    texts |= {"training_text": e.training_text} | ({"corpus": e.corpus} if e.corpus is not None else {})
    mistakes = [mistake for name, text in texts.items() for mistake in check_documents(name, text)]
    if e.train.k or e.evaluate.k:
        mistakes += check_chunks("chunks", e.chunks)
    mistakes += check_training("train.training", e.train.training)
    m = e.model.chunk_tokens
    if e.chunks.chunk_tokens != m:
        mistakes.append(
            f"chunks.chunk_tokens: {e.chunks.chunk_tokens} tokens, but model.chunk_tokens are {m}; write one number"
        )
    elif m > 0:
        mistakes += check_windows("train.tokens", e.train.tokens, m)
        mistakes += check_windows("evaluate.tokens", e.evaluate.tokens, m, e.evaluate.stride)
    if e.evaluate.batch_size < 1:
        mistakes.append(f"evaluate.batch_size: found {e.evaluate.batch_size}; write at least 1")
    thresholds = e.leakage.thresholds
    if sorted(set(thresholds)) != list(thresholds) or not thresholds or thresholds[0] <= 0 or thresholds[-1] != 100:
        mistakes.append(
            f"leakage.thresholds: found {list(thresholds)}; write rising percentages above 0, the last 100, such as"
            " [12.5, 50, 100]"
        )
    return mistakes + _fitting(e) + _neighbours(e) + _layers(e) + retro_checkpoints(e)


def _fitting(e: RetroExperiment) -> list[str]:
    share = e.train.fit
    if share < 0:
        return [f"train.fit: found {share}; write a share of train.training.steps, 0 to train everything together"]
    if share and not isinstance(e.model.decoder, ScratchDecoder):
        return [f"train.fit: found {share}, but a decoder of a checkpoint is fitted from the start; leave it at 0"]
    return []


def _neighbours(e: RetroExperiment) -> list[str]:
    mistakes = []
    if e.neighbours.k < 1:
        mistakes.append(f"neighbours.k: found {e.neighbours.k}; write at least 1")
    for name, k in (("train.k", e.train.k), ("evaluate.k", e.evaluate.k)):
        if k < 0:
            mistakes.append(f"{name}: found {k}; write 0 (none) or more")
        elif k > e.neighbours.k:
            mistakes.append(f"{name}: reads {k} neighbours, of {e.neighbours.k} computed; raise neighbours.k")
    return mistakes


def _layers(e: RetroExperiment) -> list[str]:
    mistakes = []
    decoder, encoder = e.model.decoder, e.model.encoder
    shapes = [("model.encoder", encoder.hidden_size, encoder.heads, encoder.layers)]
    if isinstance(decoder, ScratchDecoder):
        shapes.append(("model.decoder", decoder.hidden_size, decoder.heads, decoder.layers))
        try:
            attending_layers(e.model.cca_layers, decoder.layers)
        except ValueError as error:
            mistakes.append(f"model.cca_layers: {error}")
    else:
        found, own = e.tokenizer, f"{{kind: pretrained, name: {decoder.name}, revision: {decoder.revision or 'null'}}}"
        same = isinstance(found, PretrainedTokenizer) and (found.name, found.revision) == (
            decoder.name,
            decoder.revision,
        )
        if not same:
            name = found.name if isinstance(found, PretrainedTokenizer) else found.kind
            mistakes.append(
                f"tokenizer: found {name}, but the decoder is a checkpoint with a vocabulary of its own; write {own}"
            )
        if e.evaluate.tokens > e.train.tokens:
            mistakes.append(
                f"evaluate.tokens: {e.evaluate.tokens}, but a decoder of a checkpoint may not have positions for more"
                f" than train.tokens, {e.train.tokens}; write at most that"
            )
    for name, width, heads, layers in shapes:
        if layers < 1:
            mistakes.append(f"{name}.layers: found {layers}; write at least 1")
        if heads < 1 or width < 1 or width % (2 * heads):
            mistakes.append(
                f"{name}.hidden_size: {width} is no multiple of 2 * heads ({heads}), as rotary positions need"
            )
    return mistakes
