"""Stage: open-QA fine-tuning over a fixed passage index."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_file

from rlm.config import Runtime
from rlm.data.corpus import Corpus
from rlm.data.datamodules import QuestionBatches
from rlm.data.gold import GoldAnswers, question_tokens
from rlm.data.qa import read_questions
from rlm.models.open_qa import OpenQa, SpanReader
from rlm.models.realm import KnowledgeAugmentedEncoder, load_encoder
from rlm.retrieval.encoder import DualEncoder
from rlm.retrieval.index import open_index
from rlm.stages.stage import Context
from rlm.stages.training import accelerator, fit, seed_everything


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `retriever/` (its passage side untouched) and `reader.safetensors`."""
    finetune = config["finetune"]
    corpus = Corpus.open(inputs["corpus"])
    questions = read_questions(inputs["questions"] / "train.jsonl")
    seed_everything(context)
    module = build_open_qa(config, inputs.get("encoder"), inputs["retriever"], inputs["index"], corpus, context.runtime)
    module.gold = GoldAnswers(corpus, questions)
    batches = QuestionBatches(question_tokens(corpus, questions), finetune.training.batch_size, context.seed)
    metrics = fit(module, batches, finetune.training, folder, context)
    module.retriever.save(folder / "retriever")
    # tied weights once; `save_model` notes their other names, in an order that differs from run to run
    weights = {name: weight.detach() for name, weight in module.reader.named_parameters()}
    save_file(weights, folder / "reader.safetensors")
    return metrics


def build_open_qa(
    config: Any, encoder: Path | None, retriever: Path, index: Path, corpus: Corpus, runtime: Runtime
) -> OpenQa:
    """Any retriever with any encoder: each comes from the stage named; without `encoder`, its own starting point."""
    finetune = config["finetune"]
    if encoder is not None:
        started = load_encoder(encoder / "encoder")
    else:
        started = KnowledgeAugmentedEncoder(config["encoder"], corpus.vocab_size)
    reader = SpanReader(started, finetune.span_hidden_size, finetune.max_span)
    embeddings = torch.from_numpy(np.load(index / "embeddings.npy", mmap_mode="c"))
    device = torch.device(accelerator(runtime))
    return OpenQa(
        DualEncoder.load(retriever / "retriever", config["retriever"]),
        reader,
        corpus,
        open_index(index / "index", device=device),
        embeddings.to(device),
        finetune,
    )


def load_open_qa(config: Any, folder: Path, index: Path, corpus: Corpus, runtime: Runtime) -> OpenQa:
    """A fine-tuned reader and question encoder, ready to predict."""
    module = build_open_qa(config, None, folder, index, corpus, runtime)
    load_model(module.reader, folder / "reader.safetensors")
    return module.to(torch.device(accelerator(runtime))).eval()
