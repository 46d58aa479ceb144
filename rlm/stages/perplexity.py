"""Stage: how well a language model predicts whole documents, with and without neighbours."""

import json
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlm.data.documents import Documents
from rlm.models.retro_training import load_retro, token_nats
from rlm.stages.neighbours import open_windows
from rlm.stages.retro_train import WEIGHTS
from rlm.stages.stage import Context
from rlm.stages.training import accelerator


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `documents.jsonl`: of each document its id, nats, tokens predicted, and bytes of the raw text."""
    evaluate, model_config = config["evaluate"], config["model"]
    documents = Documents.open(inputs["text"])
    windows = open_windows(
        inputs, evaluate.tokens, model_config.chunk_tokens, evaluate.stride, evaluate.k, evaluate.part
    )
    device = accelerator(context.runtime)
    model = load_retro(model_config, documents.vocab_size, inputs["model"] / WEIGHTS).to(device)
    nats, tokens = np.zeros(len(documents)), np.zeros(len(documents), np.int64)
    done = 0
    for batch in windows.batches(evaluate.batch_size):
        moved = {name: value.to(device) for name, value in batch.items()}
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=evaluate.precision == "bf16"):
            found = token_nats(model, moved).double().sum(1)
        np.add.at(nats, batch["document"].numpy(), found.cpu().numpy())
        np.add.at(tokens, batch["document"].numpy(), batch["scored"].sum(1).numpy())
        done += len(batch["ids"])
        context.progress(done, len(windows))
    with open(folder / "documents.jsonl", "w") as file:
        for number, size in enumerate(documents.bytes.tolist()):
            line = {"id": documents.id(number), "nats": float(nats[number]), "tokens": int(tokens[number])}
            file.write(json.dumps({**line, "bytes": size}, ensure_ascii=False) + "\n")
    return {
        "bits_per_byte": float(nats.sum() / log(2) / documents.bytes.sum()),
        "perplexity": exp(nats.sum() / tokens.sum()),
        "documents": len(documents),
        "tokens": int(tokens.sum()),
    }
