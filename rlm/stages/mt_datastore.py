"""Stage: a datastore of an encoder-decoder's states over pairs of sentences."""

from pathlib import Path
from typing import Any

import torch

from rlm.data.parallel import ParallelText
from rlm.data.translation_batches import every_pair
from rlm.models.translation import (
    IGNORED,
    DecoderStates,
    load_translator,
    token_states,
    vocabulary,
)
from rlm.models.translation_config import TranslatorConfig
from rlm.retrieval.datastore_writer import DatastoreWriter
from rlm.stages.datastore_shares import DATASTORE, write_datastore
from rlm.stages.mt_train import MODEL
from rlm.stages.stage import Context


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `datastore/`: a key and its token for every token of the translations; an interrupted run goes on.

    Raises:
        ValueError: the text has another vocabulary.
    """
    text = ParallelText.open(inputs["text"])
    total = len(text.target.values)
    write_datastore(_write, config, inputs, folder, context, total, context.runtime.devices)
    return {"keys": total, "pairs": len(text)}


def _write(config: Any, inputs: dict[str, Path], folder: Path, context: Context, device: str, **options: Any) -> None:
    settings, text = config["datastore"], ParallelText.open(inputs["text"])
    model = open_translator(config["model"], inputs, text).to(device)
    context.all_read()
    share = options.get("share", range(len(text.target.values)))
    writer: DatastoreWriter | None = None
    first = 0
    with DecoderStates(model, settings.key) as states, torch.inference_mode():
        for batch in every_pair(text, settings.batch_size, IGNORED):
            count = int((batch["labels"] != IGNORED).sum())
            if first >= share.stop:
                break
            if first + count > (share.start if writer is None else writer.count):
                moved = {name: value.to(model.device) for name, value in batch.items()}
                keys, values = token_states(model, states, moved)
                if writer is None:
                    made_of = made_of_states(config["model"], settings.key, inputs)
                    writer = DatastoreWriter(
                        folder / DATASTORE,
                        keys.shape[1],
                        vocabulary(model),
                        {**made_of, "text": inputs["text"].name},
                        settings.dtype,
                        **options,
                    )
                writer.append(keys.float(), values, first)
                context.progress(writer.count - share.start, len(share))
            first += count
    assert writer is not None
    writer.close()


def made_of_states(config: TranslatorConfig, key: str, inputs: dict[str, Path]) -> dict[str, str]:
    """What keys can be compared by: the model and which of its states."""
    model = inputs["model"].name if "model" in inputs else f"{config.name} {config.revision or ''}".strip()  # type: ignore[union-attr]
    return {"model": model, "key": key}


def open_translator(config: TranslatorConfig, inputs: dict[str, Path], text: ParallelText) -> Any:
    """The model that was trained here, or the checkpoint.

    Raises:
        ValueError: the text has tokens that it does not know.
    """
    model = load_translator(config, inputs["model"] / MODEL if "model" in inputs else None)
    size = vocabulary(model)
    largest = max(int(rows.values.max()) for rows in (text.source, text.target))
    if largest >= size:
        named = getattr(config, "name", inputs["text"].name)
        raise ValueError(
            f"{named}: the tokenizer has token {largest}, {text.tokenizer.convert_ids_to_tokens(largest)!r}, which is"
            f" beyond the model's vocabulary of {size}; remove it there, or resize the model (resize_token_embeddings)"
            " and train it"
        )
    return model
