"""Causal language models whose states are the keys of a datastore."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from rlm.data.checkpoint_files import positions_of
from rlm.data.pretrained import load_model, vocabulary_mistake
from rlm.models.decoders import Decoder, RotaryDecoder
from rlm.models.knn_config import KeyFunction, PretrainedLanguageModel
from rlm.models.retro_config import RetroConfig
from rlm.models.retro_training import load_retro

SEEN = {"output": "input", "output_normalized": "output"}
"""What of the last norm of the model is the key; of the norms of a layer, `..._before_norm` is what goes in."""
LAYERS = ("h", "layers", "decoder.layers")
NORMS = {
    # the last two where attention and feed-forward read the same (GPT-J, Falcon, Phi)
    "ffn_input": (
        *("ln_2", "pre_feedforward_layernorm", "post_attention_layernorm", "final_layer_norm"),
        *("ln_1", "input_layernorm"),
    ),
    "attention_input": ("ln_1", "input_layernorm", "self_attn_layer_norm"),
    "output": ("ln_f", "norm", "final_layer_norm", "decoder.final_layer_norm", "final_layernorm", "layer_norm"),
}
"""What models of transformers call them."""
READERS = {"ffn_input": ("mlp", "fc1", "feed_forward", "ffn"), "attention_input": ("attn", "attention")}
"""Parts of the names of what reads them."""


class LanguageModel(nn.Module, ABC):
    """A language model that tells its states."""

    width: int

    @abstractmethod
    def norm(self, where: str) -> nn.Module:
        """The last norm before what a name of `NORMS` says.

        Raises:
            ValueError: the model has no such norm.
        """

    @abstractmethod
    def hidden(self, ids: Tensor) -> Tensor:
        """What the head reads, [batch, length] to [batch, length, width]."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """[..., width] to [..., vocabulary]."""

    @contextmanager
    def keys(self, function: KeyFunction) -> Iterator[list[Tensor]]:
        """While it is open, every call of `hidden` leaves its keys in the list, as its only member: [batch, length,
        width], or both first dimensions as one."""
        before = function.endswith("_before_norm") or SEEN.get(function) == "input"
        where = "output" if function in SEEN else function.removesuffix("_before_norm")
        seen: list[Tensor] = []

        def keep(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            seen[:] = [arguments[0] if before else output]

        handle = self.norm(where).register_forward_hook(keep)
        try:
            yield seen
        finally:
            handle.remove()


class ScratchLanguageModel(LanguageModel):
    """The decoder that was trained here (stage `retro_train` without retrieval)."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        assert isinstance(decoder, RotaryDecoder)
        self.decoder, self.width = decoder, decoder.width

    def norm(self, where: str) -> nn.Module:
        last = self.decoder.blocks[-1]
        return {"ffn_input": last.feed_forward[0], "attention_input": last.norm, "output": self.decoder.norm}[where]

    def hidden(self, ids: Tensor) -> Tensor:
        hidden = self.decoder.embed(ids, 0)
        for layer in range(self.decoder.layers):
            hidden = hidden + self.decoder.attention(layer, hidden, None)
            hidden = hidden + self.decoder.feed_forward(layer, hidden)
        return self.decoder.norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.decoder.head(hidden)


class HuggingFaceLanguageModel(LanguageModel):
    """A causal language model of transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model.eval()
        self.width = int(model.config.hidden_size)
        self.positions = positions_of(model.config.to_dict())

    def norm(self, where: str) -> nn.Module:
        body: Any = self.model.base_model
        if where != "output":
            layers = next((found for name in LAYERS if (found := _find(body, name)) is not None), [None])
            body = layers[-1]
        norms = (_find(body, name) for name in NORMS[where])
        found = next((norm for norm in norms if norm is not None), None)
        if found is None:
            raise ValueError(
                f"key function `{where}`: {type(self.model).__name__} has no layer norm that is called "
                f"{', '.join(NORMS[where])} there; choose another `key`"
            )
        if where in READERS and not self._read(found, body, READERS[where]):
            raise ValueError(
                f"key function `{where}`: in {type(self.model).__name__} no layer norm comes just before what is read;"
                " choose another `key`"
            )
        return found

    def _read(self, norm: nn.Module, layer: nn.Module, names: tuple[str, ...]) -> bool:
        """Whether a part of the layer with such a name reads what the norm puts out, as a short input shows."""
        out: list[Tensor] = []
        read: list[bool] = []

        def look(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen = [each for each in (*arguments, *named.values()) if isinstance(each, Tensor)]
            read.extend(each.data_ptr() == last.data_ptr() for each in seen for last in out[-1:])

        readers = [part for name, part in layer.named_modules() if any(word in name for word in names)]
        handles = [part.register_forward_pre_hook(look, with_kwargs=True) for part in readers]
        handles.append(norm.register_forward_hook(lambda module, arguments, output: out.append(output)))
        try:
            with torch.inference_mode():
                self.hidden(self._short)
        finally:
            for handle in handles:
                handle.remove()
        return any(read)

    @property
    def _short(self) -> Tensor:
        """An input to try the model on."""
        return torch.arange(1, 5, device=self.model.device)[None]

    def hidden(self, ids: Tensor) -> Tensor:
        if self.positions is not None and ids.shape[1] > self.positions:
            raise ValueError(
                f"windows of {ids.shape[1]} tokens, the language model has {self.positions} positions; shorten them"
            )
        return self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        config, logits = self.model.config, self.model.get_output_embeddings()(hidden)
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma
            logits = cap * torch.tanh(logits / cap)
        logits = logits / (getattr(config, "logits_scaling", None) or 1.0)  # Granite
        return logits * (getattr(config, "logit_scale", None) or 1.0)  # Cohere

    def check(self) -> None:
        """Raise ValueError where the model's own forward gives other logits."""
        with torch.inference_mode():
            ours, own = self.logits(self.hidden(self._short)), self.model(input_ids=self._short).logits
        if bool(own.isnan().any()):
            raise ValueError(
                f"{type(self.model).__name__} gives NaN for the first tokens of its vocabulary, although its weights"
                " are finite: they are too large, or damaged; name another checkpoint"
            )
        if not torch.allclose(ours, own, rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"{type(self.model).__name__} makes its logits from its last states in a way that is not known here;"
                " name a model of another architecture"
            )


def _find(module: Any, name: str) -> Any:
    """A submodule by its dotted name; None where there is none."""
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


def open_language_model(
    config: RetroConfig | PretrainedLanguageModel, vocab_size: int, weights: Path | None
) -> LanguageModel:
    """The language model in evaluation mode: that of a checkpoint, or that which was trained here.

    Args:
        config: of either.
        vocab_size: of the text's tokenizer.
        weights: file of the one that was trained here.

    Raises:
        ValueError: a checkpoint with another vocabulary than the text.
        ConfigError: no checkpoint, or not one of a causal language model.
    """
    if isinstance(config, RetroConfig):
        assert weights is not None
        return ScratchLanguageModel(load_retro(config, vocab_size, weights).decoder).eval()
    failure = "gives no causal language model"
    model = load_model(AutoModelForCausalLM, config, "model.name", failure, dtype=torch.float32)
    known = model.config.vocab_size
    if known < vocab_size and (mistake := vocabulary_mistake(config, known, vocab_size, "text")):
        raise ValueError(mistake)
    opened = HuggingFaceLanguageModel(model)
    opened.check()
    return opened
