"""Text from a language model, token by token, with the neighbours of its chunks looked up as they are finished."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from rlm.models.decoders import Cache
from rlm.models.retro import Neighbours, Retro

LookUp = Callable[[Tensor], Neighbours]
"""Neighbours, [1, chunks, k, r], of finished chunks in the order of the text, [chunks, chunk tokens]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the next token is drawn from its logits.

    Raises:
        ValueError: a temperature or a share that cannot be.
    """

    greedy: bool = False
    """Take the likeliest token; nothing else is read then."""
    temperature: float = 1.0
    """Logits are divided by it: towards 0 only the likeliest is drawn."""
    top_p: float = 1.0
    """Draw from the fewest likeliest tokens that together have this probability (nucleus sampling)."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < inf:
            raise ValueError(f"temperature: found {self.temperature}; write a number above 0 (or sample greedily)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top-p: found {self.top_p}; write a share above 0, at most 1")


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities that tokens are drawn with, temperature first, then the nucleus (Holtzman et al. 2020, 1904.09751,
    section 3.1); not rescaled to a sum of 1.

    Args:
        logits: [vocabulary].
        sampling: not greedy.

    Returns:
        float64 [vocabulary], 0 outside the nucleus.
    """
    logits = logits.double()
    # The greatest is 0, so that no temperature makes it infinite.
    p, order = ((logits - logits.max()) / sampling.temperature).softmax(0).sort(descending=True, stable=True)
    before = p.cumsum(0) - p
    return torch.zeros_like(p).scatter(0, order, p * (before < sampling.top_p))


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """A token, [], of logits [vocabulary]."""
    if sampling.greedy:
        return logits.argmax()
    return distribution(logits, sampling).multinomial(1, generator=generator)[0]


@torch.inference_mode()
def generate(
    model: Retro,
    prompt: Tensor,
    look_up: LookUp | None,
    tokens: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    stop: Collection[int] = (),
) -> Iterator[int]:
    """The tokens that follow a text, as they come.

    Args:
        model: in evaluation mode.
        prompt: tokens with the start token, [length], on the model's device.
        look_up: called with the chunks that the prompt finishes, all at once, and then with each that is finished, just
            before its last token is read; None is RETRO[Off], or a language model.
        tokens: given at most; fewer where the decoder's positions are used up.
        sampling: of each token.
        generator: draws, on the model's device.
        stop: tokens that end the text, and are not given.

    Raises:
        ValueError: the prompt is empty, or has more tokens than the decoder has positions.
    """
    if not len(prompt):
        raise ValueError("a prompt of no tokens; begin it with the token that starts a document")
    m, length, positions = model.chunk_tokens, len(prompt), model.decoder.positions
    # The last token is drawn but never read, and needs no position.
    longest = length + tokens if positions is None else min(length + tokens, max(length, positions) + 1)
    text, cache = F.pad(prompt, (0, tokens)), Cache()
    for end in range(length, longest):
        start = cache.length
        finished = text[start // m * m : end // m * m].view(-1, m)
        neighbours = look_up(finished) if look_up is not None and len(finished) else None
        token = draw(model(text[None, start:end], neighbours, cache)[0, -1], sampling, generator)
        text[end] = token
        if int(token) in stop:
            return
        yield int(token)
