"""From an experiment's configuration to its stages (imports nothing heavy)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rlm.data.config import (
    CorpusConfig,
    QuestionsConfig,
    RulesTagger,
    TaggerConfig,
    TokenizerConfig,
    TrainedByteTokenizer,
    TrainedTokenizer,
)
from rlm.models.config import EvaluateConfig, FinetuneConfig, IctConfig, PretrainConfig, WarmStartConfig
from rlm.models.retro_config import ScratchDecoder
from rlm.retrieval.config import DualEncoderConfig, EncoderConfig, ExactIndex, IndexConfig, ScratchEncoder
from rlm.stages.columns import Column, Logged, Plot, percent_of_questions
from rlm.stages.stage import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class RealmExperiment:
    """Everything that identifies one cell of a REALM table, but for data set and seed."""

    corpus: CorpusConfig
    """The knowledge corpus Z."""
    pretraining_text: CorpusConfig | None = None
    """The text X whose sentences are masked; None takes the knowledge corpus itself."""
    tokenizer: TokenizerConfig = field(default_factory=TrainedTokenizer)
    salient_spans: TaggerConfig = field(default_factory=RulesTagger)
    questions: dict[str, QuestionsConfig]
    """Data sets by name."""
    encoder: EncoderConfig
    """The knowledge-augmented encoder, which fine-tuning makes the reader."""
    retriever: DualEncoderConfig
    index: IndexConfig = field(default_factory=ExactIndex)
    warm_start: WarmStartConfig | None = None
    """None where the encoder's checkpoint has a trained masked-token head."""
    ict: IctConfig
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


def outside_content(config: Any, content: Callable[[Any], str]) -> str:
    """Of what an encoder, a decoder or a tokenizer reads from outside the store."""
    if isinstance(config, TrainedTokenizer | TrainedByteTokenizer):
        return content(config.source) if config.source is not None else ""
    return "" if isinstance(config, ScratchEncoder | ScratchDecoder) else content(config)


REALM_PLOTS = (
    Plot(
        title="How stale the index is",
        panels=(
            Logged(stage="pretrain", metric="index_age", title="age of the index, in optimizer steps"),
            Logged(stage="pretrain", metric="agreement", title="agreement: share of the top k still found"),
            Logged(stage="pretrain", metric="churn", title="churn: share of the top k changed by a swap", marked=True),
        ),
    ),
)


def realm_datasets(experiment: RealmExperiment) -> tuple[str, ...]:
    """The sets of questions."""
    return tuple(experiment.questions)


def realm_columns(experiment: RealmExperiment) -> tuple[Column, ...]:
    """What the evaluation stages measure."""
    answered = partial(percent_of_questions, role="evaluate", file="predictions.jsonl")
    recall = f"recall@{experiment.finetune.passages_read}"
    return (
        answered("exact_match", "exact match", right=lambda line: line["exact_match"]),
        answered(recall, recall, right=lambda line: line["retrieved"]),
        *map(_zero_shot_recall, experiment.evaluate.recall_at),
    )


def _zero_shot_recall(k: int) -> Column:
    panel = Logged(stage="zero_shot", metric=f"recall@{k}", title="percent of questions", marked=True)
    return percent_of_questions(
        f"zero_shot_recall@{k}",
        f"zero-shot recall@{k}",
        role="zero_shot",
        file="ranks.jsonl",
        right=lambda line: 0 < (line["rank"] or 0) <= k,
        determined_by="a retriever",
        over_steps=Plot(title=f"Zero-shot recall@{k} over pre-training", panels=(panel,)),
    )


def realm_measured_on(experiment: RealmExperiment, dataset: str) -> str:
    """The questions that the evaluation stages ask, in words."""
    return questions_in_words(experiment.questions[dataset], experiment.evaluate.split)


def questions_in_words(questions: QuestionsConfig, split: str) -> str:
    """Which questions of a data set are asked."""
    limit = getattr(questions, f"{split}_limit")
    return f"the {split} split" + (f", at most its first {limit:,} questions" if limit else "")


def realm_stages(
    experiment: RealmExperiment, dataset: str, seed: int, content: Callable[[Any], str]
) -> dict[str, Stage]:
    """The stages of one cell by role; equal stages of other cells have equal keys.

    Args:
        experiment: the row's configuration.
        dataset: a name in `experiment.questions`.
        seed: of everything that is trained.
        content: digest of the files of a source, tagger or checkpoint, `content(source) -> str`.
    """
    e = experiment
    corpus = Stage(
        name="corpus",
        config={"corpus": e.corpus, "tokenizer": e.tokenizer},
        content=content(e.corpus.source) + outside_content(e.tokenizer, content),
    )
    text = corpus
    if e.pretraining_text is not None:
        text = Stage(
            name="corpus",
            config={"corpus": e.pretraining_text},
            inputs={"tokenizer": corpus},
            content=content(e.pretraining_text.source),
        )
    spans = Stage(name="salient_spans", config=e.salient_spans, inputs={"text": text}, content=content(e.salient_spans))
    questions = Stage(name="questions", config=e.questions[dataset], content=content(e.questions[dataset].source))
    bert = None
    if e.warm_start is not None:
        bert = Stage(
            name="warm_start",
            config={"encoder": e.encoder, "warm_start": e.warm_start},
            inputs={"corpus": corpus, "text": text, "spans": spans},
            seed=seed,
            content=outside_content(e.encoder, content),
        )
    encoder_input = {"encoder": bert} if bert else {}
    own_encoder = "" if bert else outside_content(e.encoder, content)
    ict = Stage(
        name="ict",
        config={"retriever": e.retriever, "ict": e.ict},
        inputs={"corpus": corpus},
        seed=seed,
        content=outside_content(e.retriever.encoder, content),
    )
    pretrain = Stage(
        name="pretrain",
        config={"encoder": e.encoder, "retriever": e.retriever, "index": e.index, "pretrain": e.pretrain},
        inputs={"corpus": corpus, "text": text, "spans": spans, "retriever": ict, **encoder_input},
        seed=seed,
        content=own_encoder,
    )
    retriever = {"pretrain": pretrain, "ict": ict}[e.finetune.retriever_from]
    index = Stage(
        name="index",
        config={"retriever": e.retriever, "index": e.index},
        inputs={"corpus": corpus, "retriever": retriever},
    )
    zero_shot = Stage(
        name="zero_shot",
        config={"retriever": e.retriever, "evaluate": e.evaluate},
        inputs={"corpus": corpus, "index": index, "retriever": retriever, "questions": questions},
    )
    if e.finetune.encoder_from == "pretrain":
        encoder_input, own_encoder = {"encoder": pretrain}, ""
    finetune = Stage(
        name="finetune",
        config={"encoder": e.encoder, "retriever": e.retriever, "finetune": e.finetune},
        inputs={"corpus": corpus, "index": index, "retriever": retriever, "questions": questions, **encoder_input},
        seed=seed,
        content=own_encoder,
    )
    evaluate = Stage(
        name="evaluate",
        config={"encoder": e.encoder, "retriever": e.retriever, "finetune": e.finetune, "evaluate": e.evaluate},
        inputs={"corpus": corpus, "index": index, "questions": questions, "finetune": finetune},
    )
    stages = {
        "corpus": corpus,
        "text": text,
        "salient_spans": spans,
        "questions": questions,
        "warm_start": bert,
        "ict": ict,
        "pretrain": pretrain,
        "index": index,
        "zero_shot": zero_shot,
        "finetune": finetune,
        "evaluate": evaluate,
    }
    return {role: stage for role, stage in stages.items() if stage is not None}
