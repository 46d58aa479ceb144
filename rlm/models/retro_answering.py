"""Answers of RETRO: what follows a prompt, the likeliest token each time."""

import torch
from torch import Tensor

from rlm.models.decoders import Cache
from rlm.models.retro import Neighbours, Retro


@torch.inference_mode()
def answer_greedily(model: Retro, prompts: Tensor, neighbours: Neighbours | None, limit: int, end: int) -> Tensor:
    """Tokens after prompts, up to the one that ends an answer.

    Args:
        model: in evaluation mode.
        prompts: whole chunks, [batch, length].
        neighbours: of the prompts' chunks; None reads none.
        limit: tokens, the end included; at most a chunk, since the chunk after a prompt has no neighbours.
        end: stands after an answer.

    Returns:
        [batch, up to `limit`]; what comes after an answer's end is `end` again.
    """
    if limit > model.chunk_tokens:
        raise ValueError(f"answers of {limit} tokens; write at most {model.chunk_tokens}, those of a chunk")
    cache, read, found = Cache(), prompts, list[Tensor]()
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
    while len(found) < limit and not ended.all():
        best = model(read, neighbours if not found else None, cache)[:, -1].argmax(-1)
        found.append(best.masked_fill(ended, end))
        ended |= best == end
        read = found[-1][:, None]
    return torch.stack(found, dim=1)
