"""From an experiment's configuration to the stages of RETRO's question answering (imports nothing heavy)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rlm.data.config import QuestionsConfig
from rlm.models.retro_config import PretrainedDecoder, RetroAnswerConfig, RetroFinetuneConfig
from rlm.retrieval.config import ChunkIndexConfig, NeighboursConfig, PassagesConfig
from rlm.stages.checkpoint_rules import retro_qa_checkpoints
from rlm.stages.checks import check_questions, check_training
from rlm.stages.columns import Column, percent_of_questions
from rlm.stages.experiment import outside_content, questions_in_words
from rlm.stages.retro_experiment import RetroExperiment, check_retro, training_stages
from rlm.stages.stage import Stage
from rlm.stages.text_stages import check_chunks, chunk_index_stage


@dataclass(frozen=True, kw_only=True, slots=True)
class RetroQaExperiment(RetroExperiment):
    """Everything that identifies one cell of a table of answers: a RETRO, and what it is asked.

    Perplexity is not measured: `evaluation_texts` and `evaluate` are there for what they share with a RETRO table.
    """

    questions: dict[str, QuestionsConfig]
    """Data sets by name."""
    passages: PassagesConfig = field(default_factory=PassagesConfig)
    finetune: RetroFinetuneConfig
    answer: RetroAnswerConfig = field(default_factory=RetroAnswerConfig)


def retro_qa_datasets(experiment: RetroQaExperiment) -> tuple[str, ...]:
    """The sets of questions."""
    return tuple(experiment.questions)


def retro_qa_columns(experiment: RetroQaExperiment) -> tuple[Column, ...]:
    """What the answers are measured by; without passages, recall is 0."""
    answered = partial(percent_of_questions, role="answer", file="answers.jsonl")
    return (
        answered("exact_match", "exact match", right=lambda line: line["right"]),
        answered("recall", "answer in a passage read", right=lambda line: line["retrieved"]),
    )


def retro_qa_measured_on(experiment: RetroQaExperiment, dataset: str) -> str:
    """The questions that are answered, in words."""
    return questions_in_words(experiment.questions[dataset], experiment.answer.split)


def retro_qa_stages(
    experiment: RetroQaExperiment, dataset: str, seed: int, content: Callable[[Any], str]
) -> dict[str, Stage]:
    """The stages of one cell by role, as `retro_stages`.

    Fine-tuning always has passages among its inputs: what regular expressions match there is what it learns to answer,
    the same whether it reads them or not.
    """
    e, stages = experiment, training_stages(experiment, seed, content)
    corpus, computed = stages["corpus"], NeighboursConfig(k=e.passages.k)
    index = chunk_index_stage(_passage_chunks(e), corpus, content)
    questions = Stage(name="questions", config=e.questions[dataset], content=content(e.questions[dataset].source))
    inputs = {"questions": questions, "corpus": corpus}
    training_passages, passages = (
        Stage(
            name="question_neighbours",
            config={"passages": computed, "split": split},
            inputs={**inputs, "index": index},
        )
        for split in ("train", e.answer.split)
    )
    read = e.finetune if e.model.cca_layers != () else replace(e.finetune, k=0)
    finetune = Stage(
        name="retro_finetune",
        config={"model": e.model, "passages": computed, "finetune": read},
        inputs={**inputs, "passages": training_passages, "model": stages["train"]},
        seed=seed,
        content=outside_content(e.model.decoder, content),
    )
    answer = Stage(
        name="retro_answer",
        config={"model": e.model, "finetune": read, "answer": e.answer},
        inputs={**inputs, **({"passages": passages} if read.k else {}), "model": finetune},
    )
    return {
        **stages,
        "passage_index": index,
        "questions": questions,
        "training_passages": training_passages,
        "passages": passages,
        "finetune": finetune,
        "answer": answer,
    }


def _passage_chunks(e: RetroQaExperiment) -> ChunkIndexConfig:
    return e.chunks if e.passages.index is None else replace(e.chunks, index=e.passages.index)


def check_retro_qa(experiment: RetroQaExperiment) -> list[str]:
    """What does not fit together, each as `dotted.name: what was found and what to write instead`."""
    e, finetune, m = experiment, experiment.finetune, experiment.model.chunk_tokens
    mistakes = check_retro(e) + check_training("finetune.training", finetune.training) + check_questions(e.questions)
    mistakes += [mistake for mistake in check_chunks("chunks", _passage_chunks(e)) if mistake not in mistakes]
    if e.passages.k < 1:
        mistakes.append(f"passages.k: found {e.passages.k}; write at least 1")
    if finetune.k < 0:
        mistakes.append(f"finetune.k: found {finetune.k}; write 0 (none) or more")
    elif finetune.k > e.passages.k:
        mistakes.append(f"finetune.k: reads {finetune.k} passages, of {e.passages.k} found; raise passages.k")
    if finetune.prompt_chunks < 1:
        mistakes.append(f"finetune.prompt_chunks: found {finetune.prompt_chunks}; write at least 1")
    if finetune.passage_tokens is not None and finetune.passage_tokens < 1:
        mistakes.append(f"finetune.passage_tokens: found {finetune.passage_tokens}; write at least 1, or null")
    if not 2 <= finetune.answer_tokens <= m:
        mistakes.append(
            f"finetune.answer_tokens: found {finetune.answer_tokens}; write 2 (a token and the end) to {m}, those of"
            " the chunk that reads the passages"
        )
    if e.answer.batch_size < 1:
        mistakes.append(f"answer.batch_size: found {e.answer.batch_size}; write at least 1")
    if isinstance(e.model.decoder, PretrainedDecoder) and (finetune.k == 0 or e.model.cca_layers == ()):
        mistakes.append(
            f"finetune.k: reads no passages, and the decoder {e.model.decoder.name} never changes, so that nothing"
            " would be trained; write 1 or more, or a decoder of kind scratch"
        )
    return mistakes + [mistake for mistake in retro_qa_checkpoints(e) if mistake not in mistakes]
