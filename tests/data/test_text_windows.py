"""Windows against slices of lists; every token is predicted once; no neighbour past the end of its document."""

import itertools
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from rlm.data.chunks import Chunks
from rlm.data.documents import Documents
from rlm.data.text_windows import NeighbourTokens, TextBatches, TextWindows
from rlm.models.retro import Neighbours, build_retro
from rlm.models.retro_config import NeighbourEncoderConfig, RetroConfig, ScratchDecoder
from tests.data.texts import numbered_documents

M = 4
LENGTHS = [5, 2, 8, 4, 9, 3, 33, 17, 16, 18, 64]


@dataclass
class Table:
    ids: np.ndarray


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Documents:
    return numbered_documents(tmp_path_factory.mktemp("text"), LENGTHS)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Documents:
    return numbered_documents(tmp_path_factory.mktemp("corpus"), [7, 4, 12, 3, 21, 9])


def neighbours(text: Documents, corpus: Documents, part: str, k: int = 3) -> NeighbourTokens:
    counts = [len(Chunks(each, M)) for each in (text, corpus)]
    return NeighbourTokens(
        Table(np.random.default_rng(0).integers(0, counts[1], (counts[0], k))), Chunks(corpus, M), part
    )


@pytest.mark.parametrize(
    ("tokens", "stride"), [(16, None), (16, 4), (16, 8), (18, None), (18, 12), (5, None), (100, 4)]
)
def test_windows__predict_every_token_once_from_those_before(text: Documents, tokens: int, stride: int | None) -> None:
    windows = TextWindows(Chunks(text, M), tokens, stride)
    predicted: dict[tuple[int, int], int] = {}
    for batch in windows.batches(3):
        for row in range(len(batch["ids"])):
            document, start = int(batch["document"][row]), int(batch["start"][row])
            own = text.tokens[document].tolist()
            length = int(batch["mask"][row].sum())
            assert start % M == 0 and batch["mask"][row, :length].all() and length <= tokens
            assert batch["ids"][row, :length].tolist() == own[start : start + length]
            assert batch["targets"][row, :length].tolist() == own[start + 1 : start + 1 + length]
            assert not batch["ids"][row, length:].any() and not batch["scored"][row, length:].any()
            for place in torch.nonzero(batch["scored"][row]).flatten().tolist():
                key = (document, start + place + 1)
                assert key not in predicted, "twice"
                predicted[key] = place
    expected = {(d, t) for d in range(len(text)) for t in range(1, len(text.tokens[d]))}
    assert predicted.keys() == expected
    # beyond the first window, no prediction looks back on less than the windows share
    used = windows.stride
    assert all(place >= min(t - 1, tokens - used) for (_, t), place in predicted.items())


def test_windows__of_several_ranks_are_those_of_one(text: Documents) -> None:
    windows = TextWindows(Chunks(text, M), 16, 8)

    def starts(batches) -> list[tuple[int, int]]:
        return [pair for b in batches for pair in zip(b["document"].tolist(), b["start"].tolist(), strict=True)]

    one = starts(windows.batches(2))
    three = [starts(windows.batches(2, rank, 3)) for rank in range(3)]
    assert sorted(one) == sorted(itertools.chain(*three)) and len(set(one)) == len(one) == len(windows)
    assert all(three)


@pytest.mark.parametrize("part", ["both", "neighbour", "continuation"])
def test_batch__has_the_neighbours_of_each_chunk_that_ends_in_it(text: Documents, corpus: Documents, part: str) -> None:
    chunks, found = Chunks(text, M), neighbours(text, corpus, part)
    windows = TextWindows(chunks, 18, 12, found)
    for number in range(0, len(windows), 3):
        batch = windows.batch(np.arange(number, min(number + 3, len(windows))))
        rows, width = batch["ids"].shape
        assert batch["neighbour_ids"].shape == batch["neighbour_mask"].shape
        assert batch["neighbour_ids"].shape[:3] == (rows, width // M, 3)
        for row in range(rows):
            document, start = int(batch["document"][row]), int(batch["start"][row])
            length = int(batch["mask"][row].sum())
            for place in range(width // M):
                ids, mask = batch["neighbour_ids"][row, place], batch["neighbour_mask"][row, place]
                if (place + 1) * M > length:
                    assert not mask.any() and not ids.any() and batch["chunks"][row, place] == -1
                    continue
                chunk = int(chunks.first[document]) + start // M + place
                assert batch["chunks"][row, place] == chunk
                for one, neighbour in enumerate(found.table.ids[chunk]):
                    of = int(np.searchsorted(found.corpus.first, neighbour, "right") - 1)
                    at = (int(neighbour) - int(found.corpus.first[of])) * M
                    first, last = {"both": (0, 2), "neighbour": (0, 1), "continuation": (1, 2)}[part]
                    expected = corpus.tokens[of][at + first * M : at + last * M].tolist()
                    assert ids[one][mask[one]].tolist() == expected
                    assert mask[one].tolist() == [True] * len(expected) + [False] * ((last - first) * M - len(expected))


def test_batches__are_functions_of_the_step(text: Documents, corpus: Documents) -> None:
    windows = TextWindows(Chunks(text, M), 16, None, neighbours(text, corpus, "both"))
    batches = TextBatches(windows, 4, seed=3)
    again = pickle.loads(pickle.dumps(TextBatches(windows, 4, seed=3)))
    for step in (9, 0, 5):
        one, two = batches(step, 0, 1), again(step, 0, 1)
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
        ranks = [batches(step, rank, 2) for rank in range(2)]
        for name in ("document", "start"):
            assert torch.equal(torch.cat([rank[name] for rank in ranks]), one[name])
    epoch = [pair for s in range(len(windows) // 4) for pair in _starts(batches(s, 0, 1))]
    assert len(set(epoch)) == len(epoch)
    assert epoch != [
        pair for s in range(len(windows) // 4) for pair in _starts(TextBatches(windows, 4, seed=4)(s, 0, 1))
    ]


def _starts(batch) -> list[tuple[int, int]]:
    return list(zip(batch["document"].tolist(), batch["start"].tolist(), strict=True))


@pytest.mark.parametrize("part", ["both", "neighbour", "continuation"])
def test_batch__is_what_retro_reads(text: Documents, corpus: Documents, part: str) -> None:
    windows = TextWindows(Chunks(text, M), 18, 12, neighbours(text, corpus, part))
    vocab_size = max(text.vocab_size, corpus.vocab_size)
    decoder = ScratchDecoder(layers=2, hidden_size=16, heads=2)
    config = RetroConfig(decoder=decoder, encoder=NeighbourEncoderConfig(hidden_size=16, heads=2), chunk_tokens=M)
    torch.manual_seed(0)
    retro = build_retro(config, vocab_size)
    for batch in windows.batches(4):
        found = Neighbours(batch["neighbour_ids"], batch["neighbour_mask"])
        losses = torch.nn.functional.cross_entropy(retro(batch["ids"], found).mT, batch["targets"], reduction="none")
        losses[batch["scored"]].sum().backward()
    for name, parameter in retro.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    assert retro.cross_attentions[0].attention.output.weight.grad.abs().max() > 0


def test_batch__of_documents_of_two_lengths_keeps_pads_and_the_other_document_out_of_retro(
    text: Documents, corpus: Documents
) -> None:
    """Outputs of real tokens read no pads and no neighbours of their chunks, and no other document."""
    batch = TextWindows(Chunks(text, M), 40, neighbours=neighbours(text, corpus, "both")).batch(np.array([6, 9]))
    ids, found, real = batch["ids"], Neighbours(batch["neighbour_ids"], batch["neighbour_mask"]), batch["mask"]
    assert real.sum(dim=1).tolist() == [32, 17], "the shorter ends within a chunk"
    vocab_size = max(text.vocab_size, corpus.vocab_size)
    decoder = ScratchDecoder(layers=3, hidden_size=16, heads=2, initial_std=0.3)
    encoder = NeighbourEncoderConfig(hidden_size=16, heads=2)
    torch.manual_seed(0)
    config = RetroConfig(decoder=decoder, encoder=encoder, chunk_tokens=M, cca_layers=(2, 3), initial_std=0.3)
    retro = build_retro(config, vocab_size)
    for cross in retro.cross_attentions:
        torch.nn.init.normal_(cross.attention.output.weight, std=0.5)

    @torch.no_grad()
    def change(ids: torch.Tensor, other: Neighbours) -> torch.Tensor:
        return (retro(ids, other) - retro(batch["ids"], found)).abs().amax(dim=2)

    pads = torch.where(real, ids, torch.randint(5, vocab_size, ids.shape))
    ended = (batch["chunks"] >= 0)[:, :, None, None]
    rubbish = torch.where(ended, found.ids, torch.randint(5, vocab_size, found.ids.shape))
    for changed in (change(pads, found), change(ids, Neighbours(rubbish, found.mask | ~ended))):
        assert changed[real].max() < 1e-5
        assert changed[1, 20:].min() > 1e-3
    last = ids.clone()
    last[1, 15:17] = (last[1, 15:17] + 1) % vocab_size
    changed = change(last, found)
    assert changed[0].max() < 1e-5 and changed[1, :15].max() < 1e-5
    assert changed[1, 15:17].min() > 1e-3


def test_windows__without_neighbours_have_none(text: Documents) -> None:
    batch = TextWindows(Chunks(text, 1), 16).batch(np.arange(3))
    assert not [name for name in batch if name.startswith("neighbour")]


def test_windows__refuses_what_cannot_be_read(text: Documents, corpus: Documents) -> None:
    chunks = Chunks(text, M)
    for tokens in (M, M - 1):
        with pytest.raises(ValueError, match=f"sequences of {tokens} tokens are not longer than one chunk of 4"):
            TextWindows(chunks, tokens)
    for stride in (6, 0, 20, -4):
        with pytest.raises(
            ValueError, match=f"stride of {stride} tokens; write a multiple of the chunk, 4, of at most 16"
        ):
            TextWindows(chunks, 16, stride)
    with pytest.raises(ValueError, match=r"neighbours of \d+ chunks for a text of \d+"):
        TextWindows(chunks, 16, None, neighbours(corpus, corpus, "both"))
    with pytest.raises(ValueError, match="neighbours of 4 tokens for chunks of 2"):
        held = neighbours(text, corpus, "both")
        held.table.ids = np.zeros((len(Chunks(text, 2)), 1), np.int64)
        TextWindows(Chunks(text, 2), 16, None, held)
