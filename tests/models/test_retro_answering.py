"""Answers, against the whole sequence read anew for every token, and what they may depend on."""

import pytest
import torch

from rlm.models.retro import Neighbours, Retro, build_retro
from rlm.models.retro_answering import answer_greedily
from rlm.models.retro_config import NeighbourEncoderConfig, RetroConfig, ScratchDecoder

M, K, VOCABULARY, END = 8, 3, 40, 0


@pytest.fixture
def model() -> Retro:
    torch.manual_seed(0)
    config = RetroConfig(
        decoder=ScratchDecoder(layers=2, hidden_size=16, heads=2, initial_std=0.5),
        encoder=NeighbourEncoderConfig(layers=1, hidden_size=16, heads=2),
        chunk_tokens=M,
        initial_std=0.5,
    )
    retro = build_retro(config, VOCABULARY)
    for cross in retro.cross_attentions:  # they start at 0
        torch.nn.init.normal_(cross.attention.output.weight, std=0.5)
    return retro.eval()


def asked(rows: int, chunks: int = 1) -> tuple[torch.Tensor, Neighbours]:
    """Prompts, and passages of which some are shorter; those of all chunks but the last are masked."""
    generator = torch.Generator().manual_seed(rows)
    prompts = torch.randint(1, VOCABULARY, (rows, chunks * M), generator=generator)
    ids = torch.randint(1, VOCABULARY, (rows, chunks, K, 2 * M), generator=generator)
    mask = torch.rand(rows, chunks, K, 2 * M, generator=generator).sort(descending=True).values > 0.3
    mask[:, :-1] = False
    return prompts, Neighbours(ids, mask)


def by_hand(model: Retro, prompt: torch.Tensor, neighbours: Neighbours | None, limit: int, end: int) -> list[int]:
    found: list[int] = []
    with torch.no_grad():
        while len(found) < limit and found[-1:] != [end]:
            ids = torch.cat([prompt, torch.tensor(found, dtype=torch.long)])
            found.append(int(model(ids[None], neighbours)[0, -1].argmax()))
    return found


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("reads", [True, False])
def test_answer_greedily__is_the_likeliest_token_each_time(model, chunks, reads) -> None:
    prompts, neighbours = asked(24, chunks)
    first = Neighbours(*(each[:1] for each in neighbours)) if reads else None
    end = by_hand(model, prompts[0], first, 4, END)[-1]  # a random model never says END
    found = answer_greedily(model, prompts, neighbours if reads else None, M, end)
    lengths = set()
    for row in range(len(prompts)):
        own = Neighbours(*(each[row : row + 1] for each in neighbours)) if reads else None
        expected = by_hand(model, prompts[row], own, M, end)
        lengths.add(len(expected))
        assert found[row].tolist() == expected + [end] * (found.shape[1] - len(expected))
    assert len(lengths) > 1, "some end before others"


def test_answer_greedily__stops_where_all_have_ended(model) -> None:
    prompts, _ = asked(3)
    end = by_hand(model, prompts[0], None, 1, END)[0]
    assert answer_greedily(model, prompts[:1], None, M, end).tolist() == [[end]]


def test_answer_greedily__refuses_answers_that_leave_the_chunk_of_their_passages(model) -> None:
    prompts, neighbours = asked(1)
    with pytest.raises(ValueError, match="answers of 9 tokens; write at most 8"):
        answer_greedily(model, prompts, neighbours, M + 1, END)


@pytest.mark.parametrize("chunks", [1, 2])
def test_answer__reads_the_passages_from_its_first_token_to_the_longest_last(model, chunks) -> None:
    prompts, neighbours = asked(1, chunks)
    ids = torch.cat([prompts, prompts[:, : M - 1]], dim=1)
    embedding = model.encoder.embedding
    seen: list[torch.Tensor] = []
    embedding.register_forward_hook(lambda module, inputs, output: (output.retain_grad(), seen.append(output))[0])
    for place in range(ids.shape[1]):
        seen.clear()
        model(ids, neighbours)[0, place].square().sum().backward()
        gradient = seen[0].grad.reshape(chunks, K, 2 * M, -1).abs().sum(-1)
        reads = place >= chunks * M - 1
        assert torch.equal(gradient > 0, neighbours.mask[0] & reads), f"token {place}"
