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

NATS = "nats.npy"


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes the nats that a text needs, by document and by token.

    `documents.jsonl`: of each document its id, nats, tokens predicted, and bytes of the raw text. `nats.npy`, float32
    [tokens]: of every token in the order of `Documents.tokens`; 0 for the start tokens, which nothing predicts.
    """
    evaluate, model_config = config["evaluate"], config["model"]
    documents = Documents.open(inputs["text"])
    windows = open_windows(
        inputs, evaluate.tokens, model_config.chunk_tokens, evaluate.stride, evaluate.k, evaluate.part
    )
    device = accelerator(context.runtime)
    model = load_retro(model_config, documents.vocab_size, inputs["model"] / WEIGHTS).to(device)
    offsets = documents.tokens.offsets
    nats = np.lib.format.open_memmap(folder / NATS, "w+", np.float32, (int(offsets[-1]),))
    done = 0
    for batch in windows.batches(evaluate.batch_size):
        moved = {name: value.to(device) for name, value in batch.items()}
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=evaluate.precision == "bf16"):
            found = token_nats(model, moved).cpu().numpy()
        # of the tokens predicted, [batch, length]
        places = (offsets[batch["document"]] + batch["start"].numpy())[:, None] + np.arange(1, found.shape[1] + 1)
        scored = batch["scored"].numpy()
        nats[places[scored]] = found[scored]
        done += len(batch["ids"])
        context.progress(done, len(windows))
    nats.flush()
    needed, tokens = np.add.reduceat(nats, offsets[:-1], dtype=float), documents.tokens.lengths - 1
    with open(folder / "documents.jsonl", "w", encoding="utf-8") as file:
        for number, size in enumerate(documents.bytes.tolist()):
            line = {"id": documents.id(number), "nats": float(needed[number]), "tokens": int(tokens[number])}
            file.write(json.dumps({**line, "bytes": size}, ensure_ascii=False) + "\n")
    return {
        "bits_per_byte": float(needed.sum() / log(2) / documents.bytes.sum()),
        "perplexity": exp(needed.sum() / tokens.sum()),
        "documents": len(documents),
        "tokens": int(tokens.sum()),
    }
