"""Encoder-decoders and their decoders' states, against what transformers itself gives."""

from pathlib import Path

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from rlm.errors import ConfigError
from rlm.models.translation import (
    IGNORED,
    DecoderStates,
    build_translator,
    load_translator,
    token_states,
    vocabulary,
)
from rlm.models.translation_config import PretrainedTranslator, ScratchTranslator

V, WIDTH, PAD, EOS = 40, 16, 0, 1
SHARED = {"vocab_size": V, "pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD}
BART = {
    **SHARED,
    **{"d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 32, "bos_token_id": None},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    "forced_eos_token_id": None,
}
SCRATCH = ScratchTranslator(layers=2, hidden_size=WIDTH, heads=2, dropout=0.0, max_positions=32, initial_std=0.3)


def made(kind: str):
    torch.manual_seed(0)
    if kind == "scratch":
        return build_translator(SCRATCH, V, PAD, EOS).eval()
    if kind == "t5":
        config = T5Config(
            **SHARED, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2, dropout_rate=0.0
        )
        return T5ForConditionalGeneration(config).eval()
    config, model = {"bart": (BartConfig, BartForConditionalGeneration), "marian": (MarianConfig, MarianMTModel)}[kind]
    return model(config(**BART, init_std=0.3)).eval()


KINDS = ["scratch", "t5", "bart", "marian"]


def batch(generator_seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(generator_seed)
    ids = torch.randint(2, V, (3, 6), generator=generator)
    labels = torch.randint(2, V, (3, 5), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, 4:], mask[1, 4:] = PAD, 0
    labels[2, 3:] = IGNORED
    return {"ids": ids, "mask": mask, "labels": labels}


@pytest.mark.parametrize("kind", KINDS)
def test_token_states__are_what_the_last_feed_forward_reads(kind: str) -> None:
    """The rest of the model, from the states on, gives the logits again."""
    model, given = made(kind), batch()
    with DecoderStates(model) as states, torch.no_grad():
        keys, values = token_states(model, states, given)
        found = states.last
        logits = model(
            input_ids=given["ids"],
            attention_mask=given["mask"],
            decoder_input_ids=model.prepare_decoder_input_ids_from_labels(given["labels"]),
        ).logits
    real = given["labels"] != IGNORED
    assert values.tolist() == given["labels"][real].tolist()
    assert torch.equal(keys, found[real]) and keys.shape == (int(real.sum()), WIDTH)
    if kind == "t5":
        pytest.skip("the residual is not to be had from the state")
    last = model.get_decoder().layers[-1]
    with torch.no_grad():
        inner = last.fc2(last.activation_fn(last.fc1(found)))
        if kind == "scratch":  # norms before blocks: what the block adds to is not the state
            return
        hidden = last.final_layer_norm(found + inner)
        again = model.get_output_embeddings()(hidden) + getattr(model, "final_logits_bias", 0)
    torch.testing.assert_close(again, logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["scratch", "t5"])
def test_decoder_states__are_normed(kind: str) -> None:
    model = made(kind)
    with DecoderStates(model) as states, torch.no_grad():
        keys, _ = token_states(model, states, batch())
    if kind == "t5":  # RMSNorm with a weight of 1
        torch.testing.assert_close(keys.square().mean(1), torch.ones(len(keys)), atol=1e-3, rtol=1e-3)
    else:
        torch.testing.assert_close(keys.mean(1), torch.zeros(len(keys)), atol=1e-5, rtol=0)
        torch.testing.assert_close(keys.var(1, unbiased=False), torch.ones(len(keys)), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_decoder_states__of_output_are_what_the_vocabulary_is_scored_with(kind: str) -> None:
    model, given = made(kind), batch()
    with DecoderStates(model, "output") as states, torch.no_grad():
        logits = model(
            input_ids=given["ids"], attention_mask=given["mask"], decoder_input_ids=given["labels"].clamp(min=0)
        ).logits
        again = model.get_output_embeddings()(states.last) + getattr(model, "final_logits_bias", 0)
    torch.testing.assert_close(again, logits)


@pytest.mark.parametrize("kind", KINDS)
def test_decoder_states__in_steps_with_a_cache_are_those_of_one_pass(kind: str) -> None:
    """What is searched for while a translation is written is what the datastore holds for it."""
    model, given = made(kind), batch()
    ids = {"input_ids": given["ids"][:1], "attention_mask": given["mask"][:1]}
    with DecoderStates(model) as states, torch.no_grad():
        written = model.generate(**ids, max_new_tokens=6, do_sample=False, num_beams=1, output_scores=False)
        labels = written[:, 1:]
        keys, values = token_states(
            model, states, {"ids": ids["input_ids"], "mask": ids["attention_mask"], "labels": labels}
        )
        stepped: list[torch.Tensor] = []
        cache = None
        encoded = model.get_encoder()(**ids)
        for token in written[0, :-1]:
            out = model(
                encoder_outputs=encoded,
                attention_mask=ids["attention_mask"],
                decoder_input_ids=token.view(1, 1),
                past_key_values=cache,
                use_cache=True,
            )
            cache = out.past_key_values
            stepped.append(states.last[0, -1])
    assert values.tolist() == labels[0].tolist()
    torch.testing.assert_close(torch.stack(stepped), keys, atol=1e-5, rtol=1e-5)


def test_decoder_states__when_the_feed_forward_is_not_known() -> None:
    config = ProphetNetConfig(
        vocab_size=V, hidden_size=WIDTH, encoder_ffn_dim=32, decoder_ffn_dim=32, num_encoder_layers=1,
        num_decoder_layers=1, num_encoder_attention_heads=2, num_decoder_attention_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    model = ProphetNetForConditionalGeneration(config)
    with pytest.raises(ConfigError, match="ffn_input is not known for a prophetnet.*write `key: output`"):
        DecoderStates(model)


def test_load_translator__gives_back_what_was_saved(tmp_path: Path) -> None:
    for kind, config in (("scratch", SCRATCH), ("marian", PretrainedTranslator(name=str(tmp_path / "marian")))):
        model = made(kind)
        model.save_pretrained(tmp_path / kind)
        again, given = load_translator(config, tmp_path / kind), batch()
        with torch.no_grad():
            one, other = (
                each(input_ids=given["ids"], attention_mask=given["mask"], labels=given["labels"]).logits
                for each in (model, again)
            )
        assert torch.equal(one, other) and not again.training
        assert vocabulary(again) == V


def test_load_translator__when_there_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.name: `.*nothing` is no folder with an encoder-decoder"):
        load_translator(PretrainedTranslator(name=str(tmp_path / "nothing")), None)
