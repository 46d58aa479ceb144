"""Key functions of language models of several families, against their states taken apart by hand."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    CohereConfig,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MptConfig,
    MptForCausalLM,
    Olmo2Config,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    T5Config,
)

from rlm.errors import ConfigError
from rlm.models.knn_config import PretrainedLanguageModel
from rlm.models.language_model import open_language_model

VOCABULARY, WIDTH, LENGTH = 60, 16, 9
FAMILIES = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=16)),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            ffn_dim=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            word_embed_proj_dim=WIDTH,
        )
    ),
    "neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        )
    ),
}  # fmt: skip
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
BESIDE = {
    "gptj": (
        lambda: GPTJForCausalLM(
            GPTJConfig(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=2, rotary_dim=4, n_positions=16)
        ),
        lambda model: model.transformer.h[-1].mlp.fc_in,
    ),
    "falcon": (
        lambda: FalconForCausalLM(FalconConfig(**SHAPE)),
        lambda model: model.transformer.h[-1].mlp.dense_h_to_4h,
    ),
    "phi": (
        lambda: PhiForCausalLM(PhiConfig(**SHAPE, intermediate_size=32)),
        lambda model: model.model.layers[-1].mlp.fc1,
    ),
}
"""Models whose attention and feed-forward stand side by side, and what reads the norm."""
FEED_FORWARD = {
    "gpt2": lambda model: model.transformer.h[-1].mlp.c_fc,
    "llama": lambda model: model.model.layers[-1].mlp.gate_proj,
    "opt": lambda model: model.model.decoder.layers[-1].fc1,
    "neox": lambda model: model.gpt_neox.layers[-1].mlp.dense_h_to_4h,
}


@pytest.fixture(params=list(FAMILIES))
def saved(request: pytest.FixtureRequest, tmp_path: Path):
    torch.manual_seed(0)
    model = FAMILIES[request.param]().eval()
    model.save_pretrained(tmp_path)
    return request.param, model, PretrainedLanguageModel(name=str(tmp_path))


IDS = torch.arange(2 * LENGTH).view(2, LENGTH) % VOCABULARY


def keys(opened, function: str) -> torch.Tensor:
    with torch.inference_mode(), opened.keys(function) as seen:
        opened.hidden(IDS)
    return seen[0].reshape(2, LENGTH, WIDTH)


def test_ffn_input__is_what_the_last_feed_forward_reads(saved) -> None:
    family, model, config = saved
    read: list[torch.Tensor] = []
    FEED_FORWARD[family](model).register_forward_pre_hook(lambda module, arguments: read.append(arguments[0]))
    with torch.inference_mode():
        model(IDS)
    found = keys(open_language_model(config, VOCABULARY, None), "ffn_input")
    torch.testing.assert_close(found, read[0].reshape(2, LENGTH, WIDTH))


@pytest.mark.parametrize("family", list(BESIDE))
def test_ffn_input__where_attention_and_feed_forward_read_the_same(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, reader = BESIDE[family]
    model = model().eval()
    model.save_pretrained(tmp_path)
    read: list[torch.Tensor] = []
    reader(model).register_forward_pre_hook(lambda module, arguments: read.append(arguments[0]))
    with torch.inference_mode():
        model(IDS)
    opened = open_language_model(PretrainedLanguageModel(name=str(tmp_path)), VOCABULARY, None)
    for function in ("ffn_input", "attention_input"):
        torch.testing.assert_close(keys(opened, function), read[0].reshape(2, LENGTH, WIDTH))


def test_open__when_it_is_no_causal_language_model(tmp_path: Path) -> None:
    MarianConfig().save_pretrained(tmp_path / "config-only")
    T5Config().save_pretrained(tmp_path / "t5")
    for name in ("nothing", "config-only", "t5"):
        with pytest.raises(ConfigError, match=f"model.name: `.*{name}` gives no causal language model"):
            open_language_model(PretrainedLanguageModel(name=str(tmp_path / name)), VOCABULARY, None)


def test_output__is_what_the_last_layer_gives(saved) -> None:
    family, model, config = saved
    opened = open_language_model(config, VOCABULARY, None)
    with torch.inference_mode():
        states = model(IDS, output_hidden_states=True).hidden_states
        torch.testing.assert_close(keys(opened, "output_normalized"), states[-1])
        torch.testing.assert_close(keys(opened, "attention_input_before_norm"), states[-2])
        torch.testing.assert_close(opened.logits(opened.hidden(IDS)), model(IDS).logits)
    functions = ("output", "output_normalized", "ffn_input", "ffn_input_before_norm", "attention_input")
    # NeoX gives both sub-layers the same, and a new norm changes nothing of it
    found = [keys(opened, function) for function in functions[: 4 if family == "neox" else 5]]
    for number, one in enumerate(found):
        assert all(float((one - other).abs().max()) > 1e-3 for other in found[:number])


def test_before_norm__gives_the_key_once_it_is_normalised(saved) -> None:
    _, _, config = saved
    opened = open_language_model(config, VOCABULARY, None)
    for function in ("ffn_input", "attention_input"):
        with torch.inference_mode():
            normalised = opened.norm(function)(keys(opened, f"{function}_before_norm"))
        torch.testing.assert_close(normalised, keys(opened, function))


def test_open__when_the_model_lacks_the_layer(tmp_path: Path) -> None:
    MptForCausalLM(MptConfig(vocab_size=VOCABULARY, d_model=WIDTH, n_layers=1, n_heads=2)).save_pretrained(tmp_path)
    opened = open_language_model(PretrainedLanguageModel(name=str(tmp_path)), VOCABULARY, None)
    with (
        pytest.raises(ValueError, match="key function `ffn_input`: MptForCausalLM has no layer norm"),
        opened.keys("ffn_input"),
    ):
        pass


def test_open__when_the_vocabulary_is_another(tmp_path: Path) -> None:
    FAMILIES["gpt2"]().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has a vocabulary of 60, the text of 61; set `tokenizer:"):
        open_language_model(PretrainedLanguageModel(name=str(tmp_path)), 61, None)


def test_hidden__when_the_window_is_too_long(tmp_path: Path) -> None:
    FAMILIES["gpt2"]().save_pretrained(tmp_path)
    opened = open_language_model(PretrainedLanguageModel(name=str(tmp_path)), VOCABULARY, None)
    with pytest.raises(ValueError, match="windows of 17 tokens, the language model has 16 positions"):
        opened.hidden(torch.zeros(1, 17, dtype=torch.int64))


def test_logits__of_models_that_change_them(tmp_path: Path) -> None:
    shape = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 2, "intermediate_size": 32, "head_dim": WIDTH // 2}
    for name, config in (
        ("gemma2", Gemma2Config(**shape, final_logit_softcapping=0.5)),
        ("granite", GraniteConfig(**shape, logits_scaling=8.0)),
        ("cohere", CohereConfig(**shape, logit_scale=0.1)),
    ):
        model = AutoModelForCausalLM.from_config(config).eval()
        model.save_pretrained(tmp_path / name)
        opened = open_language_model(PretrainedLanguageModel(name=str(tmp_path / name)), VOCABULARY, None)
        with torch.inference_mode():
            torch.testing.assert_close(opened.logits(opened.hidden(IDS)), model(IDS).logits)


def test_open__when_the_logits_are_made_otherwise(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, is_decoder=True
    )
    BertLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BertLMHeadModel makes its logits from its last states in a way"):
        open_language_model(PretrainedLanguageModel(name=str(tmp_path)), VOCABULARY, None)


def test_open__when_finite_weights_give_nan(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    torch.nn.init.constant_(model.transformer.wte.weight, 3e38)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="GPT2LMHeadModel gives NaN for the first tokens .* name another checkpoint"):
        open_language_model(PretrainedLanguageModel(name=str(tmp_path)), VOCABULARY, None)


def test_ffn_input__where_several_norms_are_around_it(tmp_path: Path) -> None:
    shape = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 2, "intermediate_size": 32}
    gemma = AutoModelForCausalLM.from_config(Gemma2Config(**shape, head_dim=WIDTH // 2)).eval()
    gemma.save_pretrained(tmp_path / "gemma2")
    read: list[torch.Tensor] = []
    gemma.model.layers[-1].mlp.register_forward_pre_hook(lambda module, arguments: read.append(arguments[0]))
    with torch.inference_mode():
        gemma(IDS)
    opened = open_language_model(PretrainedLanguageModel(name=str(tmp_path / "gemma2")), VOCABULARY, None)
    torch.testing.assert_close(keys(opened, "ffn_input"), read[0])
    # its norms come after attention and feed-forward
    AutoModelForCausalLM.from_config(Olmo2Config(**shape)).save_pretrained(tmp_path / "olmo2")
    opened = open_language_model(PretrainedLanguageModel(name=str(tmp_path / "olmo2")), VOCABULARY, None)
    with (
        pytest.raises(ValueError, match="in Olmo2ForCausalLM no layer norm comes just before"),
        opened.keys("ffn_input"),
    ):
        pass
