"""Stage: RETRO answers the questions of a split, scored by exact match."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlm.data.documents import Documents
from rlm.data.qa import Question, read_questions
from rlm.data.question_prompts import prompts
from rlm.metrics.answers import AnswerMatcher, exact_match
from rlm.models.retro import Neighbours
from rlm.models.retro_answering import answer_greedily
from rlm.models.retro_training import load_retro
from rlm.stages.question_neighbours import passages_to_read
from rlm.stages.retro_train import WEIGHTS
from rlm.stages.stage import Context
from rlm.stages.training import accelerator


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `answers.jsonl`: of each question its prediction, whether it is right, and the passages read."""
    model_config, finetune, answer = config["model"], config["finetune"], config["answer"]
    m, documents = model_config.chunk_tokens, Documents.open(inputs["corpus"])
    questions = read_questions(inputs["questions"] / f"{answer.split}.jsonl")
    asked = [question.question for question in questions]
    ids, cut = prompts(documents.tokenizer, asked, finetune.prompt_chunks * m, documents.start)
    passages = passages_to_read(inputs, answer.split, finetune, m)
    device = accelerator(context.runtime)
    model = load_retro(model_config, documents.vocab_size, inputs["model"] / WEIGHTS).to(device)
    right = retrieved = 0
    with open(folder / "answers.jsonl", "w", encoding="utf-8") as file:
        for first in range(0, len(questions), answer.batch_size):
            rows = np.arange(first, min(first + answer.batch_size, len(questions)))
            read, sources = None, [list[str]() for _ in rows]
            if passages is not None:
                read = Neighbours(*(torch.from_numpy(each).to(device) for each in passages(rows)))
                sources = passages.sources(rows)
            with torch.autocast(device, torch.bfloat16, enabled=answer.precision == "bf16"):
                prompt = torch.from_numpy(ids[rows]).to(device)
                found = answer_greedily(model, prompt, read, finetune.answer_tokens, documents.start)
            texts = documents.tokenizer.backend_tokenizer.decode_batch(found.tolist(), skip_special_tokens=True)
            for row, text, of_question in zip(rows.tolist(), texts, sources, strict=True):
                names = [] if passages is None else passages.names(row)
                line = _line(questions[row], text.strip(), of_question, names)
                right, retrieved = right + line["right"], retrieved + line["retrieved"]
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            done = int(rows[-1]) + 1
            context.progress(done, len(questions), exact_match=100 * right / done)
    n = len(questions)
    return {"exact_match": 100 * right / n, "recall": 100 * retrieved / n, "n": n, "cut_questions": cut}


def _line(question: Question, text: str, sources: list[str], names: list[str]) -> dict[str, Any]:
    matcher = AnswerMatcher(question.answers, question.answer_kind)
    return {
        "id": question.id,
        "question": question.question,
        "prediction": text,
        "right": int(exact_match(text, question.answers, question.answer_kind)),
        "retrieved": int(any(map(matcher.matches, sources))),
        "passages": names,
        "answers": list(question.answers),
        "answer_kind": question.answer_kind,
    }
