"""Stage: answers the questions of a split and scores them by exact match."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from rlm.data.corpus import Corpus
from rlm.data.gold import question_tokens
from rlm.data.qa import Question, read_questions
from rlm.metrics.answers import AnswerMatcher, exact_match
from rlm.metrics.exact_match import ExactMatch
from rlm.models.open_qa import Prediction
from rlm.stages.finetune import load_open_qa
from rlm.stages.stage import Context
from rlm.stages.training import autocast


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `predictions.jsonl`."""
    evaluate = config["evaluate"]
    corpus = Corpus.open(inputs["corpus"])
    questions = read_questions(inputs["questions"] / f"{evaluate.split}.jsonl")
    module = load_open_qa(config, inputs["finetune"], inputs["index"], corpus, context.runtime)
    tokens = question_tokens(corpus, questions)
    order = np.argsort(tokens.lengths, kind="stable")  # questions of like length together
    lines: dict[int, dict[str, Any]] = {}
    for first in range(0, len(order), evaluate.batch_size):
        rows = order[first : first + evaluate.batch_size]
        with autocast(config["finetune"].training, context.runtime):
            prediction, found = module.predict(tokens.take(rows))
        texts = answer_texts(corpus, prediction)
        for i, row in enumerate(rows):
            lines[int(row)] = _line(questions[row], texts[i], prediction, i, corpus, found[i])
        context.progress(first + len(rows), len(order))
    scored = [lines[row] for row in range(len(questions))]
    with open(folder / "predictions.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in scored)
    read, metric = config["finetune"].passages_read, ExactMatch()
    answers, kinds = [question.answers for question in questions], [question.answer_kind for question in questions]
    metric.update([line["prediction"] for line in scored], answers, kinds)
    return {
        "exact_match": float(metric.compute()),
        f"recall@{read}": 100 * float(np.mean([line["retrieved"] for line in scored])),
        "n": float(len(scored)),
    }


def _line(
    question: Question, text: str, prediction: Prediction, i: int, corpus: Corpus, found: np.ndarray
) -> dict[str, Any]:
    matcher = AnswerMatcher(question.answers, question.answer_kind)
    return {
        "id": question.id,
        "question": question.question,
        "prediction": text,
        "exact_match": int(exact_match(text, question.answers, question.answer_kind)),
        "score": float(prediction.score[i]),
        "passage_id": corpus.passage(int(prediction.passage[i])).id,
        "retrieved": int(any(matcher.matches(corpus.passage(int(z)).text) for z in found)),
        "answers": list(question.answers),
        "answer_kind": question.answer_kind,
    }


def answer_texts(corpus: Corpus, prediction: Prediction) -> list[str]:
    """The spans' text, cut from the passages as written, not joined from word pieces."""
    passages = [corpus.passage(int(passage)).text for passage in prediction.passage]
    offsets = corpus.tokenizer(passages, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    spans = zip(passages, offsets, prediction.start, prediction.end, strict=True)
    return [text[pieces[start][0] : pieces[end - 1][1]] for text, pieces, start, end in spans]
