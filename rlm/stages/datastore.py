"""Stage: the keys of a text's tokens and the tokens that follow, by one pass of a language model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlm.data.documents import Documents
from rlm.data.text_windows import TextWindows
from rlm.models.knn_config import DatastoreConfig
from rlm.models.language_model import LanguageModel, open_language_model
from rlm.retrieval.datastore_writer import SIDECAR, DatastoreWriter
from rlm.stages.datastore_shares import DATASTORE, write_datastore
from rlm.stages.neighbours import open_windows
from rlm.stages.retro_train import WEIGHTS
from rlm.stages.stage import Context

SPOKEN = ("lm", "best", "entropy")
"""Arrays beside the keys where a text is evaluated: see `rlm.models.knn.Spoken`."""
GROUP = 16
"""Batches whose windows are sorted by length together, and whose keys are written together."""
MADE_OF = ("model", "key")
"""What datastores must share to be searched as one, or by each other's keys."""


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes what `Datastore.open` reads, in the order of the text; an interrupted run goes on.

    Where `spoken` is set, also what the language model says at each token.

    Raises:
        ValueError: a text without a token to predict, a language model of another vocabulary or without the layer.
    """
    total = int(first_keys(_windows(config, inputs))[-1])
    # what the model says is of a text that is evaluated, which is short
    write_datastore(_write, config, inputs, folder, context, total, 1 if config["spoken"] else context.runtime.devices)
    metrics = {"keys": float(total)}
    if config["spoken"]:
        metrics["perplexity"] = float(np.exp(-np.load(folder / "lm.npy").mean(dtype=float)))
    return metrics


def _windows(config: Any, inputs: dict[str, Path]) -> TextWindows:
    return open_windows(inputs, config["datastore"].tokens, 1, config["datastore"].stride)


def _write(config: Any, inputs: dict[str, Path], folder: Path, context: Context, device: str, **options: Any) -> None:
    settings, documents = config["datastore"], Documents.open(inputs["text"])
    weights = inputs["model"] / WEIGHTS if "model" in inputs else None
    model = open_language_model(config["model"], documents.vocab_size, weights).to(device)
    context.all_read()
    model_name = inputs["model"].name if "model" in inputs else f"{config['model'].name}@{config['model'].revision}"
    made_of = {"text": inputs["text"].name, "model": model_name, "key": settings.key}
    writer = DatastoreWriter(folder / DATASTORE, model.width, documents.vocab_size, made_of, settings.dtype, **options)
    spoken = folder if config["spoken"] else None
    write_keys(model, _windows(config, inputs), writer, settings, spoken, context, device)


def write_keys(
    model: LanguageModel,
    windows: TextWindows,
    writer: DatastoreWriter,
    settings: DatastoreConfig,
    spoken: Path | None,
    context: Context,
    device: str,
) -> None:
    """Write all windows' keys, from where the writer is to where it stops."""
    first = first_keys(windows)
    together, begun, stored = GROUP * settings.batch_size, writer.first, getattr(torch, settings.dtype)
    arrays = {name: _open_array(spoken / f"{name}.npy", int(first[-1]), writer.count) for name in SPOKEN if spoken}
    with model.keys(settings.key) as seen:
        for low in range(0, len(windows), together):
            high = min(low + together, len(windows))
            if writer.count >= first[high]:
                continue
            if writer.stop <= first[low]:
                break
            # [keys of the group, width], and what is said there
            keys = torch.empty(int(first[high] - first[low]), model.width, dtype=stored)
            values = np.empty(len(keys), np.int64)
            order = low + np.argsort(-windows.places(np.arange(low, high))[2], kind="stable")
            for start in range(0, len(order), settings.batch_size):
                some = order[start : start + settings.batch_size]
                batch = windows.batch(some)
                scored = batch["scored"]
                kind = torch.device(device).type
                with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, settings.precision == "bf16"):
                    hidden = model.hidden(batch["ids"].to(device))
                    at = np.concatenate([np.arange(first[w], first[w + 1]) for w in some])
                    kept = scored.to(device)
                    keys[at - first[low]] = seen[0].view(*kept.shape, -1)[kept].to(stored).cpu()
                    values[at - first[low]] = batch["targets"][scored].numpy()
                    if arrays:
                        said = torch.log_softmax(model.logits(hidden[kept]).float(), -1)
                        targets = batch["targets"].to(device)[kept]
                        arrays["lm"][at] = said.gather(1, targets[:, None]).squeeze(1).cpu().numpy()
                        arrays["best"][at] = said.amax(1).cpu().numpy()
                        arrays["entropy"][at] = -(said.exp() * said).sum(1).cpu().numpy()
            for array in arrays.values():
                array.flush()
            writer.append(keys, values, int(first[low]))
            context.progress(writer.count - begun, min(writer.stop, int(first[-1])) - begun)
    writer.close()


def first_keys(windows: TextWindows) -> NDArray[np.int64]:
    """Number of the first key of each window, and of all keys: [windows + 1]. Every token but the start of its document
    is predicted by one key; the keys are in the order of the text."""
    _, start, length = windows.places(np.arange(len(windows)))
    counts = length - np.where(start > 0, windows.tokens - windows.stride, 0)
    return np.concatenate([[0], np.cumsum(counts)])


def _open_array(path: Path, count: int, written: int) -> np.memmap:
    if written and path.exists():
        array: np.memmap = np.lib.format.open_memmap(path, "r+")
        if array.shape == (count,):
            return array
    return np.lib.format.open_memmap(path, "w+", np.float32, (count,))


def describe(folder: Path) -> dict[str, str]:
    """What a datastore is of."""
    return dict(json.loads((folder / DATASTORE / SIDECAR).read_text(encoding="utf-8"))["made_of"])
