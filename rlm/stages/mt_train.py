"""Stage: trains an encoder-decoder to translate."""

from pathlib import Path
from typing import Any

from rlm.data.parallel import ParallelText
from rlm.data.translation_batches import PairBatches
from rlm.models.translation import IGNORED, Translation, build_translator
from rlm.stages.stage import Context
from rlm.stages.training import fit, seed_everything

MODEL = "model"


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `model/`, as transformers saves it."""
    train, shape = config["train"], config["model"]
    text = ParallelText.open(inputs["text"])
    seed_everything(context)
    model = build_translator(shape, text.vocab_size, text.pad, text.tokenizer.eos_token_id)
    batches = PairBatches(text, train.training.batch_size, context.seed, IGNORED)
    metrics = fit(Translation(model, train), batches, train.training, folder, context)
    model.save_pretrained(folder / MODEL)
    return {**metrics, "pairs": len(text), "parameters": sum(each.numel() for each in model.parameters())}
