"""Stage: trains RETRO, or a language model without retrieval."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rlm.data.documents import Documents
from rlm.data.text_windows import TextBatches
from rlm.models.retro import build_retro
from rlm.models.retro_training import RetroTraining, load_retro, save_retro
from rlm.stages.neighbours import open_windows
from rlm.stages.stage import Context
from rlm.stages.training import fit, seed_everything

WEIGHTS = "retro.safetensors"


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes the weights. Those of the decoder stay as they are where there is a base (RETRO-fitting, section 4.2)."""
    train, model_config = config["train"], config["model"]
    windows = open_windows(inputs, train.tokens, model_config.chunk_tokens, k=train.k, part=train.part)
    seed_everything(context)
    vocab_size = Documents.open(inputs["text"]).vocab_size
    model = build_retro(model_config, vocab_size)
    if "base" in inputs:
        base = load_retro(replace(model_config, cca_layers=()), vocab_size, inputs["base"] / WEIGHTS)
        model.decoder = base.decoder.requires_grad_(False)
    positions = model.decoder.positions
    if positions is not None and train.tokens > positions:
        raise ValueError(f"train.tokens: {train.tokens}, but the decoder has {positions} positions; write at most that")
    batches = TextBatches(windows, train.training.batch_size, context.seed)
    metrics = fit(RetroTraining(model, train.training), batches, train.training, folder, context)
    save_retro(model, folder / WEIGHTS)
    return {**metrics, "windows": len(windows), "parameters": sum(each.numel() for each in model.parameters())}
