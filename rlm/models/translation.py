"""Translation by an encoder-decoder of transformers: built, trained, and its decoder's states looked at."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PegasusConfig, PegasusForConditionalGeneration

from rlm.data.pretrained import load_model
from rlm.errors import ConfigError
from rlm.models.optimizer import configure
from rlm.models.translation_config import PretrainedTranslator, ScratchTranslator, TranslationTraining

IGNORED = -100
"""Label of padding, as transformers has it."""


def build_translator(config: ScratchTranslator, vocab_size: int, pad: int, eos: int) -> Any:
    """An encoder-decoder with random weights: norms before blocks, sinusoidal positions, one table of embeddings."""
    shape: dict[str, Any] = {
        "layers": config.layers,
        "attention_heads": config.heads,
        "ffn_dim": 4 * config.hidden_size,
    }
    settings = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in shape.items()} | {
        "vocab_size": vocab_size,
        "d_model": config.hidden_size,
        "dropout": config.dropout,
        "attention_dropout": 0.0,
        "max_position_embeddings": config.max_positions,
        "init_std": config.initial_std,
        "scale_embedding": True,
        "pad_token_id": pad,
        "eos_token_id": eos,
        "bos_token_id": None,
        "decoder_start_token_id": pad,
        "forced_eos_token_id": None,
    }
    return PegasusForConditionalGeneration(PegasusConfig(**settings))


def load_translator(config: ScratchTranslator | PretrainedTranslator, folder: Path | None) -> Any:
    """A trained encoder-decoder in float32, in evaluation mode.

    Args:
        config: which.
        folder: what `save_pretrained` wrote, of one that was trained here.

    Raises:
        ConfigError: the checkpoint is no encoder-decoder, or is not found.
    """
    if isinstance(config, ScratchTranslator):
        assert folder is not None
        return PegasusForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    failure = "is no folder with an encoder-decoder and the hub did not give one"
    return load_model(AutoModelForSeq2SeqLM, config, "model.name", failure, dtype=torch.float32)


def vocabulary(model: Any) -> int:
    """Tokens that a model may write."""
    return int(model.get_output_embeddings().weight.shape[0])


class DecoderStates:
    """The states that a decoder had at each of the tokens it last read, while this context is open.

    Args:
        model: an encoder-decoder.
        key: `ffn_input` is the input of the last feed-forward block, after its norm; `output` that of the projection to
            the vocabulary.

    Raises:
        ConfigError: the decoder has no block that is known to be its last feed-forward.
    """

    last: Tensor
    """[batch, tokens, width]"""

    def __init__(self, model: Any, key: str = "ffn_input") -> None:
        self._module = model.get_output_embeddings() if key == "output" else _last_feed_forward(model)
        self._hook: Any = None

    def __enter__(self) -> Self:
        self._hook = self._module.register_forward_pre_hook(self._keep)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hook.remove()

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.last = inputs[0].detach()


def _last_feed_forward(model: Any) -> nn.Module:
    """The first projection of the feed-forward block in a decoder's last layer, whose input has been normed."""
    decoder = model.get_decoder()
    layers = getattr(decoder, "layers", None) or getattr(decoder, "block", None)
    last: Any = None if layers is None else layers[-1]
    if isinstance(getattr(last, "fc1", None), nn.Module):  # BART, Marian, mBART, Pegasus, FSMT
        return last.fc1
    blocks = getattr(last, "layer", None)
    if blocks is not None and hasattr(blocks[-1], "DenseReluDense"):  # T5, mT5, UMT5, LongT5
        return blocks[-1].DenseReluDense
    raise ConfigError(
        f"datastore.key: ffn_input is not known for a {model.config.model_type}, whose decoder layers have no `fc1` and"
        " no `DenseReluDense`; write `key: output`, or name a BART-, Marian- or T5-like checkpoint"
    )


def shifted(model: Any, labels: Tensor) -> Tensor:
    """What the decoder reads to write the labels: the start token, and each label but the last."""
    start = labels.new_full((len(labels), 1), model.config.decoder_start_token_id)
    read = torch.cat([start, labels[:, :-1]], 1)
    return read.masked_fill(read == IGNORED, model.config.pad_token_id)


def token_states(model: Any, states: DecoderStates, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The decoder's state at each token of the translations, given source and what is before it, and that token.

    Args:
        model: an encoder-decoder.
        states: open.
        batch: `ids` and `mask` of the sources, `labels` of the translations, `IGNORED` on padding.

    Returns:
        [tokens, width] and [tokens], pair by pair.
    """
    labels = batch["labels"]
    model(
        input_ids=batch["ids"],
        attention_mask=batch["mask"],
        decoder_input_ids=shifted(model, labels),
        use_cache=False,
    )
    real = labels != IGNORED
    return states.last[real], labels[real]


class Translation(pl.LightningModule):
    """Mean label-smoothed cross-entropy over the tokens of the translations."""

    def __init__(self, model: Any, config: TranslationTraining) -> None:
        super().__init__()
        self.model, self.config = model, config

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        labels = batch["labels"]
        logits = self.model(
            input_ids=batch["ids"],
            attention_mask=batch["mask"],
            decoder_input_ids=shifted(self.model, labels),
            use_cache=False,
        ).logits
        count = (labels != IGNORED).sum().float()
        if self.trainer.world_size > 1:  # the mean is over the tokens of all ranks
            count = self.trainer.strategy.reduce(count, reduce_op="mean")
        loss = (
            F.cross_entropy(
                logits.float().flatten(0, 1),
                labels.flatten(),
                ignore_index=IGNORED,
                label_smoothing=self.config.label_smoothing,
                reduction="sum",
            )
            / count
        )
        self.log_dict({"loss": loss.detach(), "tokens": count}, sync_dist=True, batch_size=len(labels))
        return loss

    def configure_optimizers(self) -> Any:
        return configure(self, self.config.training)
