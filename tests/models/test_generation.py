"""Generation, against the whole text read at once, and samplers, against loops in float64."""

import math

import pytest
import torch

from rlm.models import generation
from rlm.models.generation import Sampling, distribution, draw, generate
from rlm.models.retro import Neighbours
from tests.models.test_retro import VOCABULARY, M, close, retro

GREEDY, SAMPLED = Sampling(greedy=True), Sampling(temperature=1.3, top_p=0.8)
R, K = 2 * M, 3


def found_for(chunk):
    """Neighbours of one chunk that follow from its tokens alone, the last one padded: ids and mask, [K, R]."""
    generator = torch.Generator().manual_seed(int((chunk * VOCABULARY ** torch.arange(M)).sum()))
    mask = torch.ones(K, R, dtype=torch.bool)
    mask[-1, M:] = False
    return torch.randint(VOCABULARY, (K, R), generator=generator), mask


class Recorder:
    """A look-up that remembers its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, chunks):
        self.calls.append(chunks.clone())
        ids, masks = zip(*map(found_for, chunks), strict=True)
        return Neighbours(torch.stack(ids)[None], torch.stack(masks)[None])


def whole(model, text, on=True):
    """Logits of all tokens, with the neighbours of every chunk of the text."""
    chunks = text[: len(text) // M * M].view(-1, M)
    with torch.no_grad():
        return model(text[None], Recorder()(chunks) if on and len(chunks) else None)[0]


def prompt_of(length):
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(length))


def drawn(model, prompt, look_up, tokens=14, sampling=SAMPLED, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    return list(generate(model, prompt, look_up, tokens, sampling, generator, **settings))


@pytest.mark.parametrize("kind", ["scratch", "fitted"])
@pytest.mark.parametrize("length", [1, M - 1, M, M + 2, 3 * M, 3 * M + 1])
def test_generate__equals_teacher_forcing_on_its_own_output(kind, length, monkeypatch):
    model, look_up, seen = retro(kind), Recorder(), []

    def watched(logits, *arguments):
        seen.append(logits)
        return draw(logits, *arguments)

    monkeypatch.setattr(generation, "draw", watched)
    tokens = drawn(model, prompt_of(length), look_up)
    text = torch.cat([prompt_of(length), torch.tensor(tokens)])
    assert len(tokens) == len(seen) == 14
    read = text[:-1]
    close(torch.stack(seen), whole(model, read)[length - 1 :])
    assert (whole(model, read) - whole(model, read, on=False))[M:].abs().amax(1).min() > 1e-3
    # Of the prompt all at once, then each as it is finished; never one whose last token is not read.
    assert [len(call) for call in look_up.calls] == [length // M] * (length >= M) + [1] * (len(read) // M - length // M)
    assert torch.equal(torch.cat(look_up.calls).flatten(), read[: len(read) // M * M])


@pytest.mark.parametrize("kind", ["scratch", "fitted"])
@pytest.mark.parametrize("on", [True, False])
def test_generate__greedily_takes_the_likeliest_token_of_the_whole_text(kind, on):
    model, text = retro(kind), prompt_of(M + 1)
    tokens = drawn(model, text, Recorder() if on else None, sampling=GREEDY)
    for token in tokens:
        assert token == whole(model, text, on)[-1].argmax()
        text = torch.cat([text, torch.tensor([token])])
    assert len(set(tokens)) > 1


def test_generate__off_equals_a_look_up_that_finds_nothing():
    model = retro()

    def nothing(chunks):
        return Neighbours(
            torch.zeros(1, len(chunks), 1, R, dtype=torch.int64), torch.zeros(1, len(chunks), 1, R).bool()
        )

    off = drawn(model, prompt_of(9), None)
    assert drawn(model, prompt_of(9), nothing) == off
    assert drawn(model, prompt_of(9), Recorder()) != off


def test_generate__is_reproduced_by_its_seed():
    model = retro()
    first, again, other = (drawn(model, prompt_of(5), Recorder(), seed=seed) for seed in (3, 3, 4))
    assert first == again != other


def test_generate__gives_tokens_as_they_come_and_ends_before_one_that_stops():
    model = retro()
    tokens = drawn(model, prompt_of(5), Recorder())
    stop = tokens[6]
    assert drawn(model, prompt_of(5), Recorder(), stop={stop}) == tokens[: tokens.index(stop)]
    look_up = Recorder()
    stream = generate(model, prompt_of(5), look_up, 14, GREEDY)
    next(stream)
    assert len(look_up.calls) == 1 and not torch.is_inference_mode_enabled()
    for _ in range(3):
        next(stream)
    assert len(look_up.calls) == 2, "the token that ends chunk 2 was read for the one after it"


def test_generate__ends_where_the_decoders_positions_do():
    model = retro("fitted")
    assert len(drawn(model, prompt_of(35), Recorder(), tokens=20)) == 6, "the last is drawn, but not read"
    assert len(drawn(model, prompt_of(40), None, tokens=20)) == 1
    assert len(drawn(model, prompt_of(35), None, tokens=3)) == 3
    with pytest.raises(ValueError, match="41 tokens, but this GPT-2 has 40 positions"):
        drawn(model, prompt_of(41), None)


def test_generate__refuses_a_prompt_of_no_tokens():
    with pytest.raises(ValueError, match="begin it with the token that starts a document"):
        drawn(retro(), prompt_of(0), None)


def nucleus_by_hand(logits, temperature, top_p):
    """The likeliest tokens one by one, until their probabilities have come to top_p."""
    weights = [math.exp(value / temperature) for value in logits.tolist()]
    p = [weight / sum(weights) for weight in weights]
    kept, mass = set(), 0.0
    for token in sorted(range(len(p)), key=lambda token: (-p[token], token)):
        if mass >= top_p:
            break
        kept.add(token)
        mass += p[token]
    return torch.tensor([p[token] if token in kept else 0.0 for token in range(len(p))], dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.95, 1.0])
def test_distribution__keeps_the_fewest_tokens_of_the_mass(temperature, top_p):
    for seed in range(10):
        logits = torch.randn(40, generator=torch.Generator().manual_seed(seed))
        logits[7] = logits[3]
        found = distribution(logits, Sampling(temperature=temperature, top_p=top_p))
        expected = nucleus_by_hand(logits.double(), temperature, top_p)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)
        kept = expected[expected > 0]
        assert kept.sum() >= top_p - 1e-9 and kept.sum() - kept.min() < top_p
    assert (expected > 0).all() if top_p == 1 else (expected == 0).any()


def test_distribution__of_equal_logits_keeps_as_many_as_the_mass_needs():
    assert (distribution(torch.zeros(8), Sampling(top_p=0.5)) > 0).tolist() == [True] * 4 + [False] * 4


def test_distribution__tends_to_the_likeliest_token_and_to_all_alike():
    logits = torch.tensor([1.0, 900.0, 899.5, -3.0])
    for temperature in (1e-2, 1e-307):
        found = distribution(logits, Sampling(temperature=temperature))
        torch.testing.assert_close(found, torch.tensor([0.0, 1, 0, 0], dtype=torch.float64), atol=1e-15, rtol=0)
    found = distribution(logits, Sampling(temperature=1e12))
    torch.testing.assert_close(found, torch.full((4,), 0.25, dtype=torch.float64), atol=1e-8, rtol=0)


def test_draw__has_the_frequencies_of_the_distribution():
    logits = torch.tensor([0.5, 2.0, -1.0, 1.5, 0.0])
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(5, dtype=torch.float64)
    for _ in range(4000):
        counts[draw(logits, SAMPLED, generator)] += 1
    p = distribution(logits, SAMPLED)
    assert ((p == 0) == (counts == 0)).all() and (p == 0).any()
    torch.testing.assert_close(counts / 4000, p / p.sum(), atol=0.04, rtol=0)
    assert draw(logits, GREEDY) == 1


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_sampling__refuses_a_temperature_not_above_0(temperature):
    with pytest.raises(ValueError, match=f"temperature: found {temperature}; write a number above 0"):
        Sampling(temperature=temperature)


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.01, math.nan])
def test_sampling__refuses_a_top_p_that_is_no_share(top_p):
    with pytest.raises(ValueError, match=f"top-p: found {top_p}; write a share above 0, at most 1"):
        Sampling(top_p=top_p)
