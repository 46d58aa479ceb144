"""REALM checkpoints of Hugging Face against what transformers' own classes, which 5.0 has no more, computed of them.

The numbers below are of RealmEmbedder and RealmKnowledgeAugEncoder of transformers 4.40.2 in evaluation mode, with
`RealmConfig(vocab_size=40, hidden_size=16, retriever_proj_size=6, num_hidden_layers=2, num_attention_heads=2,
intermediate_size=24, max_position_embeddings=32)` and the weights of `filled` for its `named_parameters()`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertModel

from rlm.data.config import PretrainedTokenizer
from rlm.data.tokenizer import make_tokenizer, open_tokenizer
from rlm.errors import ConfigError
from rlm.models.realm import KnowledgeAugmentedEncoder
from rlm.retrieval.config import DualEncoderConfig, PretrainedEncoder, ScratchEncoder
from rlm.retrieval.encoder import DualEncoder

ROOT = Path(__file__).parents[2]
IDS = torch.tensor([[2, 7, 8, 9, 3, 0, 0, 0], [2, 7, 8, 3, 11, 12, 13, 3]])
MASK = torch.tensor([[1] * 5 + [0] * 3, [1] * 8]).bool()
SEGMENTS = torch.tensor([[0] * 8, [0] * 4 + [1] * 4])
PROJECTED = [
    [1.4369499683380127, -1.5161237716674805, -0.4996875524520874, 0.5949128866195679, -0.31137457489967346, 1.4091075658798218],
    [1.4995837211608887, -1.4971497058868408, -0.4849443733692169, 0.6040223836898804, -0.37182027101516724, 1.3559914827346802],
]  # fmt: skip
"""`projected_score` of RealmEmbedder."""
POOLED = [
    [-0.2667393684387207, -0.5026457905769348, 0.7161351442337036, -0.4306526482105255],
    [-0.2867286801338196, -0.47511833906173706, 0.7068852186203003, -0.4430069029331207],
]
"""The first of what its pooler gives."""
LOGITS = [
    [-1.4915392398834229, -0.3614796996116638, 1.2812812328338623],
    [-1.4905339479446411, -0.41369712352752686, 1.2326569557189941],
]
"""The first of RealmKnowledgeAugEncoder's at the fifth word piece."""
SETTINGS = {
    **{"model_type": "realm", "vocab_size": 40, "hidden_size": 16, "retriever_proj_size": 6, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32, "hidden_act": "gelu_new"},
    **{"layer_norm_eps": 1e-12, "type_vocab_size": 2, "num_candidates": 8, "pad_token_id": 1, "bos_token_id": 0},
}
HEAD = {
    **{"bias": (40,), "decoder.weight": (40, 16), "transform.LayerNorm.bias": (16,)},
    **{"transform.LayerNorm.weight": (16,), "transform.dense.bias": (16,), "transform.dense.weight": (16, 16)},
}


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights by a formula that no random generator can change."""
    weights = {}
    for number, name in enumerate(sorted(shapes)):
        at = torch.arange(torch.Size(shapes[name]).numel(), dtype=torch.float64)
        values = torch.sin(at * (number + 1) * 0.7 + number) * 0.3 + name.endswith("LayerNorm.weight")
        weights[name] = values.view(shapes[name]).float()
    return weights


def shapes(projection: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of RealmEmbedder's weights, or of RealmKnowledgeAugEncoder's."""
    kept = {name: value for name, value in SETTINGS.items() if name not in ("model_type", "retriever_proj_size")}
    own = BertModel(BertConfig(**kept))
    found = {f"realm.{name}": tuple(weight.shape) for name, weight in own.named_parameters()}
    found |= {f"cls.predictions.{name}": shape for name, shape in HEAD.items()}
    if projection:
        found |= {"cls.dense.weight": (6, 16), "cls.dense.bias": (6,)}
        found |= {"cls.LayerNorm.weight": (6,), "cls.LayerNorm.bias": (6,)}
    else:
        del found["cls.predictions.decoder.weight"]  # which is the table of embeddings
    return found


def write(folder: Path, architecture: str, weights: dict[str, Tensor], pickled: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SETTINGS | {"architectures": [architecture]}))
    weights = weights | {"realm.embeddings.position_ids": torch.arange(32)[None]}  # as older versions saved
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def embedder() -> dict[str, Tensor]:
    return filled(shapes(projection=True))


def dual(folder: Path, **settings) -> DualEncoder:
    config = {"pooling": "pooler", "projection": 6, "layer_norm_eps": 1e-12, **settings}
    return DualEncoder(DualEncoderConfig(encoder=PretrainedEncoder(name=str(folder)), **config), 40).eval()


def embedded(encoder: DualEncoder) -> Tensor:
    with torch.no_grad():
        return encoder.embed_passage(IDS, MASK, SEGMENTS)


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("prefix", ["", "embedder."], ids=["RealmEmbedder", "RealmScorer"])
def test_dual_encoder__of_a_realm_checkpoint_embeds_as_it(prefix: str, pickled: bool, embedder, tmp_path: Path) -> None:
    weights = {f"{prefix}{name}": weight for name, weight in embedder.items()}
    if prefix:  # the scorer has its tower twice
        weights |= {f"query_embedder.{name}": weight + 1 for name, weight in embedder.items()}
    folder = write(tmp_path / "realm", "RealmScorer" if prefix else "RealmEmbedder", weights, pickled)
    found = dual(folder)
    torch.testing.assert_close(embedded(found), torch.tensor(PROJECTED), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        pooled = found.encoder(IDS, MASK, token_type_ids=SEGMENTS).pooler_output
    torch.testing.assert_close(pooled[:, :4], torch.tensor(POOLED), rtol=1e-5, atol=1e-5)


def test_dual_encoder__of_a_realm_checkpoint_is_saved_and_loaded(embedder, tmp_path: Path) -> None:
    found = dual(write(tmp_path / "realm", "RealmEmbedder", embedder))
    found.save(tmp_path / "saved")
    (tmp_path / "realm").rename(tmp_path / "gone")
    again = DualEncoder.load(tmp_path / "saved", found.config)
    torch.testing.assert_close(embedded(again), torch.tensor(PROJECTED), rtol=1e-5, atol=1e-5)


def test_layer_norm_eps__is_keras_s_by_default(embedder, tmp_path: Path) -> None:
    folder = write(tmp_path / "realm", "RealmEmbedder", embedder)
    found = dual(folder, layer_norm_eps=1e-3)
    assert found.config == DualEncoderConfig(encoder=found.config.encoder, pooling="pooler", projection=6)
    with torch.no_grad():
        pooled = found.encoder(IDS, MASK, token_type_ids=SEGMENTS).pooler_output
    projected = pooled @ embedder["cls.dense.weight"].T + embedder["cls.dense.bias"]
    centred = projected - projected.mean(1, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-3)
    torch.testing.assert_close(
        embedded(found), scaled * embedder["cls.LayerNorm.weight"] + embedder["cls.LayerNorm.bias"]
    )


@pytest.mark.parametrize(
    "settings", [{"pooling": "cls"}, {"pooling": "mean"}, {"projection": 8}, {"layer_norm": False}], ids=str
)
def test_dual_encoder__of_another_projection_is_refused(settings, embedder, tmp_path: Path) -> None:
    folder = write(tmp_path / "realm", "RealmEmbedder", embedder)
    with pytest.raises(ConfigError, match="write pooling: pooler, projection: 6 and layer_norm: true"):
        dual(folder, **settings)


def test_dual_encoder__without_projection_takes_the_tower_alone(embedder, tmp_path: Path) -> None:
    folder = write(tmp_path / "realm", "RealmEmbedder", embedder)
    found = embedded(dual(folder, projection=None, layer_norm=False))
    torch.testing.assert_close(found[:, :4], torch.tensor(POOLED), rtol=1e-5, atol=1e-5)


def test_dual_encoder__of_an_incomplete_realm_checkpoint_is_refused(embedder, tmp_path: Path) -> None:
    weights = {name: weight for name, weight in embedder.items() if "pooler" not in name}
    folder = write(tmp_path / "realm", "RealmEmbedder", weights)
    with pytest.raises(ConfigError, match=r"2 of the \d+ weights of a BertModel are not in it, the first `pooler"):
        dual(folder)
    write(tmp_path / "realm", "RealmEmbedder", embedder | {"cls.dense.bias": torch.full((6,), torch.nan)})
    with pytest.raises(ConfigError, match=r"realm` holds NaN in its weight `projection\.bias` \(6 of 6 numbers\)"):
        dual(folder)
    (folder / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(ConfigError, match=r"model\.safetensors: cut short or damaged"):
        dual(folder)


def test_knowledge_augmented_encoder__of_a_realm_checkpoint_fills_masks_as_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "realm", "RealmKnowledgeAugEncoder", filled(shapes(projection=False)))
    encoder = KnowledgeAugmentedEncoder(PretrainedEncoder(name=str(folder)), 40).eval()
    with torch.no_grad():
        logits = encoder.model.cls(encoder.hidden(IDS, MASK, SEGMENTS))
    torch.testing.assert_close(logits[:, 4, :3], torch.tensor(LOGITS), rtol=1e-5, atol=1e-5)


def test_pooler__of_a_bert_is_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    own = BertModel(BertConfig(vocab_size=40, **sizes)).eval()
    own.save_pretrained(tmp_path / "bert")
    found = dual(tmp_path / "bert", projection=None, layer_norm=False)
    with torch.no_grad():
        expected = own(IDS, MASK, token_type_ids=SEGMENTS).pooler_output
    torch.testing.assert_close(embedded(found), expected)
    BertForMaskedLM(BertConfig(vocab_size=40, **sizes)).save_pretrained(tmp_path / "masked")
    with pytest.raises(ConfigError, match="the first `pooler.dense.bias`"):
        dual(tmp_path / "masked")


def test_pooler__of_an_encoder_from_scratch_is_trained_and_kept(tmp_path: Path) -> None:
    scratch = ScratchEncoder(layers=1, hidden_size=16, heads=2, max_positions=32)
    torch.manual_seed(0)
    found = DualEncoder(DualEncoderConfig(encoder=scratch, pooling="pooler", projection=6), 40).eval()
    found.embed_query(IDS, MASK).sum().backward()
    assert found.encoder.pooler.dense.weight.grad is not None
    found.save(tmp_path)
    assert torch.equal(embedded(DualEncoder.load(tmp_path, found.config)), embedded(found))


def test_tokenizer__of_a_realm_checkpoint_is_bert_s(embedder, tmp_path: Path) -> None:
    folder = write(tmp_path / "realm", "RealmEmbedder", embedder)
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ada", "##s"])
    )
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RealmTokenizer", "do_lower_case": true}')
    tokenizer = make_tokenizer(PretrainedTokenizer(name=str(folder)), list)
    encoded = tokenizer("Adas", "ada")
    assert encoded["input_ids"] == [3, 6, 7, 4, 6, 4] and encoded["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    tokenizer.save_pretrained(tmp_path / "saved")
    assert open_tokenizer(tmp_path / "saved")("Adas", "ada")["input_ids"] == encoded["input_ids"]


def test_dual_encoder__of_a_realm_checkpoint_in_the_hub_s_cache(embedder, tmp_path: Path) -> None:
    cached = tmp_path / "models--google--realm" / "snapshots" / "abc"
    cached.parent.mkdir(parents=True)
    write(cached, "RealmEmbedder", embedder, pickled=True)
    (tmp_path / "models--google--realm" / "refs").mkdir()
    (tmp_path / "models--google--realm" / "refs" / "main").write_text("abc")
    code = (
        "from tests.retrieval.test_realm_checkpoint import *\n"
        "found = embedded(dual('google/realm'))\n"
        "torch.testing.assert_close(found, torch.tensor(PROJECTED), rtol=1e-5, atol=1e-5)"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
