"""Stage: RETRO learns to answer questions, with the passages found for them as neighbours, or without."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlm.answer_patterns import usable_patterns
from rlm.data.documents import Documents
from rlm.data.qa import Question, read_questions
from rlm.data.question_prompts import AnswerBatches, PassageTokens, answer_tokens, prompts
from rlm.metrics.answers import exact_match
from rlm.models.retro_training import RetroTraining, load_retro, save_retro
from rlm.stages.question_neighbours import open_passages, passages_to_read
from rlm.stages.retro_train import WEIGHTS
from rlm.stages.stage import Context
from rlm.stages.training import fit, seed_everything


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes the weights."""
    finetune, model_config = config["finetune"], config["model"]
    m, documents = model_config.chunk_tokens, Documents.open(inputs["corpus"])
    questions = read_questions(inputs["questions"] / "train.jsonl")
    asked = [question.question for question in questions]
    ids, cut = prompts(documents.tokenizer, asked, finetune.prompt_chunks * m, documents.start)
    found = open_passages(inputs, "train", config["passages"].k, m)
    answers = [
        answer_tokens(documents.tokenizer, texts, documents.start, finetune.answer_tokens)
        for texts in answers_to_learn(questions, found)
    ]
    read = passages_to_read(inputs, "train", finetune, m)
    batches = AnswerBatches(ids, answers, read, finetune.training.batch_size, context.seed)
    seed_everything(context)
    model = load_retro(model_config, documents.vocab_size, inputs["model"] / WEIGHTS)
    metrics = fit(RetroTraining(model, finetune.training), batches, finetune.training, folder, context)
    save_retro(model, folder / WEIGHTS)
    skipped = len(questions) - len(batches.asked)
    return {**metrics, "questions": len(batches.asked), "skipped_questions": skipped, "cut_questions": cut}


def answers_to_learn(questions: Sequence[Question], passages: PassageTokens) -> list[tuple[str, ...]]:
    """Texts that answer each question; none where no pattern matches in its passages.

    Strings are the answers themselves. A regular expression cannot be learnt from: what it matches in the passages can,
    as REALM's fine-tuning takes it, where it is a right answer by itself.
    """
    return [
        question.answers if question.answer_kind == "string" else _matches(question, passages.sources(np.array([row])))
        for row, question in enumerate(questions)
    ]


def _matches(question: Question, sources: list[list[str]]) -> tuple[str, ...]:
    """What a question's patterns match, in the order of the passages, each once."""
    patterns = usable_patterns(question.answers)
    found = (
        text[start:end].strip()
        for texts in sources
        for text in texts
        for pattern in patterns
        for start, end in pattern.spans(text)
    )
    return tuple(text for text in dict.fromkeys(found) if text and exact_match(text, question.answers, "regex"))
