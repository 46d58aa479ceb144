"""Stage: trains RETRO, or a language model without retrieval."""

from pathlib import Path
from typing import Any

from rlm.data.documents import Documents
from rlm.data.text_windows import TextBatches
from rlm.models.retro import build_retro
from rlm.models.retro_training import RetroTraining, save_retro
from rlm.stages.neighbours import open_windows
from rlm.stages.stage import Context
from rlm.stages.training import fit, seed_everything

WEIGHTS = "retro.safetensors"


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes the weights."""
    train, model_config = config["train"], config["model"]
    windows = open_windows(inputs, train.tokens, model_config.chunk_tokens, k=train.k, part=train.part)
    seed_everything(context)
    model = build_retro(model_config, Documents.open(inputs["text"]).vocab_size)
    batches = TextBatches(windows, train.training.batch_size, context.seed)
    metrics = fit(RetroTraining(model, train.training), batches, train.training, folder, context)
    save_retro(model, folder / WEIGHTS)
    return {**metrics, "windows": len(windows), "parameters": sum(each.numel() for each in model.parameters())}
