"""Plans of tables that name checkpoints which cannot do what is asked: refused by file, line and field, or planned."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BartConfig, BertConfig, BertForTokenClassification, MarianConfig, T5Config

from rlm.errors import ConfigError
from rlm.table import load_table
from tests import checkpoints
from tests.data.test_checkpoint_files import JSON

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
LENGTHS = ("retriever.query_tokens=16", "retriever.passage_tokens=32", "finetune.passage_tokens=32")
LENGTHS += tuple(
    f"{stage}.{name}" for stage in ("pretrain", "warm_start") for name in ("query_tokens=16", "passage_tokens=32")
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return checkpoints.bert_and_gpt2(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def here(saved: Path, tmp_path: Path, monkeypatch) -> Path:
    """The folder that names are relative to."""
    for name in ("bert", "gpt2"):
        shutil.copytree(saved / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mistakes(name: str, row: str, *settings: str) -> list[str]:
    settings = tuple({setting.partition("=")[0]: setting for setting in settings}.values())  # the last counts
    try:
        load_table(EXPERIMENTS / name, "tiny", rows=[row], settings=settings)
    except ConfigError as error:
        return [_without_place(line.strip(), settings) for line in str(error).splitlines()]
    return []


def _without_place(line: str, settings: tuple[str, ...]) -> str:
    """A mistake without `FILE:LINE: ` or `--set NAME=VALUE: ` before it."""
    places = [f"--set {setting}: " for setting in settings if line.startswith(f"--set {setting}: ")]
    return line.removeprefix(places[0]) if places else line.partition(": ")[2]


def named(*fields: str, name: str = "bert") -> tuple[str, ...]:
    return tuple(f"{field}={{kind: pretrained, name: {json.dumps(name)}}}" for field in fields)


def realm(*settings: str, name: str = "bert") -> list[str]:
    all_of_it = named("tokenizer", "encoder", "retriever.encoder", name=name)
    return mistakes("realm_table2.yaml", "REALM", *all_of_it, *LENGTHS, *settings)


def knn_lm(*settings: str, name: str = "gpt2") -> list[str]:
    lengths = ("datastore.tokens=32", "datastore.stride=16")
    return mistakes("knn_lm.yaml", "LM + kNN", *named("tokenizer", "model", name=name), *lengths, *settings)


def retro(*settings: str, name: str = "gpt2", chunks: str = "bert") -> list[str]:
    lengths = ("chunks.encoder.max_tokens=64", "train.tokens=32", "evaluate.tokens=32", "evaluate.stride=16")
    lengths += ("model.chunk_tokens=16", "chunks.chunk_tokens=16", "model.cca_layers=[1]")
    encoder = named("chunks.encoder.encoder", name=chunks)
    models = named("tokenizer", "model.decoder", name=name)
    return mistakes("retro_neighbours.yaml", "2 neighbours", *models, *encoder, *lengths, *settings)


def knn_mt(*settings: str, name: str = "marian") -> list[str]:
    models = named("tokenizer", "model", name=name)
    return mistakes("knn_mt.yaml", "+ kNN", *models, "train=null", "training=[]", *settings)


def test_plan__of_checkpoints_that_fit(here: Path) -> None:
    assert realm() == [] and knn_lm() == [] and retro() == []
    assert realm(name=str(here / "bert")) == []
    checkpoints.change(here / "bert" / "config.json", type_vocab_size=1)
    assert realm() == [], "segment 0 throughout"
    checkpoints.change(here / "bert" / "config.json", vocab_size=64)
    assert realm() == [], "a padded table of embeddings"


def test_plan__of_names_of_the_hub(here: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "hub"))
    assert realm(name="google-bert/bert-base-uncased") == [] and knn_lm(name="openai-community/gpt2") == []
    cached = here / "hub" / "models--google-bert--bert-base-uncased" / "snapshots" / "main"
    shutil.copytree(here / "bert", cached)
    assert realm("retriever.passage_tokens=72", name="google-bert/bert-base-uncased") == [
        "retriever.passage_tokens: 72 word pieces, google-bert/bert-base-uncased reads 64; shorten it"
    ]
    (cached / "model.safetensors").unlink()
    assert realm(name="google-bert/bert-base-uncased") == [], "downloaded when it is loaded"


def test_plan__of_a_folder_that_was_only_described(here: Path) -> None:
    for path in (here / "bert").iterdir():
        if path.name != "config.json":
            path.unlink()
    assert realm() == []
    assert realm("pretrain.passage_tokens=56") == [
        "pretrain.passage_tokens: 56 and query_tokens 16 make 72 word pieces, bert reads 64; shorten them"
    ]


def test_plan__of_positions_that_padding_needs(here: Path) -> None:
    checkpoints.change(here / "bert" / "config.json", max_position_embeddings=63)
    found = realm("retriever.passage_tokens=58")
    assert found == ["retriever.passage_tokens: 58 word pieces, bert reads 56; shorten it"]
    assert realm("warm_start.passage_tokens=48") == [
        "warm_start.passage_tokens: 48 and query_tokens 16 make 64 word pieces, bert reads 56; shorten them"
    ]


def cut_short(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"vocab_size": 58')


def broken_link(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("gone")


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)


def no_type(folder: Path) -> None:
    checkpoints.change(folder / "config.json", model_type=None)


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("weights")


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("gone")


HARMS = {
    cut_short: "NAME/model.safetensors: cut short or damaged; download it again",
    no_weights: "NAME: no weights (model.safetensors or pytorch_model.bin) in the folder; download it, too",
    no_config: "NAME: no config.json in the folder, so no checkpoint; write the path of a downloaded checkpoint",
    broken_config: "NAME/config.json: no JSON",
    broken_link: "NAME/model.safetensors: a link to a file that is not there; download it again",
    broken_tokenizer: "NAME/tokenizer.json: no `model` with a vocabulary",
    no_tokenizer: "NAME: no tokenizer (tokenizer.json or vocab.txt) in the folder; download it, too",
    no_type: "config.json of NAME names no `model_type`; write it there, such as bert or gpt2",
    a_file: "`NAME` is a file; write the path of a checkpoint's folder",
    no_folder: "`NAME` is a link to what is not there; write the path of a checkpoint's folder",
}


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_plan__says_once_what_is_wrong_with_a_folder(harm, here: Path) -> None:
    harm(here / "bert")
    harm(here / "gpt2")
    for name, found in (("bert", realm()), ("gpt2", knn_lm()), ("gpt2", retro(chunks="elsewhere/bert"))):
        assert len(found) == 1 and HARMS[harm].replace("NAME", name) in found[0]
    assert any("chunks.encoder.encoder: " in line and HARMS[harm].replace("NAME", "bert") in line for line in retro())


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "models/of/mine", "a b", "~nobody/x"])
def test_plan__of_a_name_that_is_none(name: str, here: Path) -> None:
    for found in (realm(name=name), knn_lm(name=name), knn_mt(name=name)):
        assert len(found) == 1 and ("no such folder" in found[0] or "no folder that can be read" in found[0])


@pytest.mark.parametrize("name", ["x" * 300, "~no-such-user/x"])
def test_plan__of_a_name_that_none_can_have(name: str, here: Path) -> None:
    for found in (realm(name=name), knn_lm(name=name), knn_mt(name=name)):
        assert found and all("at most 255 bytes" in line or "no such home" in line for line in found)


def test_plan__of_a_tokenizer_with_an_added_token(here: Path) -> None:
    for name in ("bert", "gpt2"):
        checkpoints.add_token(here / name)
    text = "has a vocabulary of 29, its tokenizer one of 30: the model does not know `<extra>`; remove it from the tokenizer"
    for found in (knn_lm(), retro(chunks="elsewhere/bert")):
        assert len(found) == 1 and found[0].startswith(f"tokenizer: gpt2 {text}, or resize the model")
    (found,) = realm()
    assert found.startswith(
        "tokenizer: bert has a vocabulary of 58, its tokenizer one of 59: the model does not know `<ex"
    )
    assert any(line.startswith("chunks.encoder.encoder: bert has a vocabulary of 58") for line in retro())


def test_plan__of_another_vocabulary(here: Path) -> None:
    (found,) = realm("tokenizer={kind: trained, vocab_size: 30}")
    assert found == (
        "tokenizer: bert has a vocabulary of 58, the tokenizer that is trained at most one of 30; write {kind: pretrained,"
        " name: bert}"
    )
    shutil.copytree(here / "bert", here / "other")
    checkpoints.add_token(here / "other")
    (found,) = realm(*named("tokenizer", name="other"))
    assert (
        found
        == "tokenizer: bert has a vocabulary of 58, the text of 59; set `tokenizer: {kind: pretrained, name: bert}`"
    )


def test_plan__of_a_tokenizer_without_special_tokens(here: Path) -> None:
    message = "the tokenizer of gpt2 has no cls_token, sep_token, pad_token, mask_token; name one that has"
    assert any(line.startswith(f"tokenizer: {message}") for line in realm(*named("tokenizer", name="gpt2")))
    path = here / "bert" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mask_token": None}))
    (found,) = realm()
    assert found.startswith("tokenizer: the tokenizer of bert has no mask_token; name one that has")


def save(folder: Path, config) -> str:
    config.save_pretrained(folder)
    return folder.name


def test_plan__of_an_architecture_that_cannot_do_it(here: Path) -> None:
    t5, roberta = save(here / "t5", T5Config(vocab_size=58)), here / "roberta"
    shutil.copytree(here / "bert", roberta)
    checkpoints.change(roberta / "config.json", model_type="roberta")
    save(here / "causal", BertConfig(vocab_size=58, is_decoder=True))
    shown = {
        "encoder": {"gpt2": "reads one side of a token only; name a BERT", "t5": "is an encoder-decoder; name a BERT"},
        "retriever.encoder": {"gpt2": "reads one side", "causal": "reads one side", "t5": "is an encoder-decoder"},
    }
    shown["encoder"]["roberta"] = "is a roberta, not a bert; name a BERT checkpoint"
    for field, names in shown.items():
        for name, message in names.items():
            assert any(
                line.startswith(f"{field}: {name} is a") and message in line for line in realm(*named(field, name=name))
            )
    assert realm(*named("retriever.encoder", name="roberta")) == []
    for name, message in (
        ("bert", "reads both sides of a token; name a causal"),
        (t5, "is an encoder-decoder; name a"),
    ):
        assert any(line.startswith(f"model: {name} is a") and message in line for line in knn_lm(name=name))
        assert any(line.startswith(f"model.decoder: {name} is a") and message in line for line in retro(name=name))
    checkpoints.change(here / "gpt2" / "config.json", model_type="llama")
    assert retro() == ["model.decoder: gpt2 is a llama, not a gpt2; name a GPT-2 checkpoint"]
    for name in ("bert", "gpt2"):
        assert any(
            line.startswith(f"model: {name} is a") and "name an encoder-decoder" in line for line in knn_mt(name=name)
        )


def test_plan__of_a_gpt2_and_what_is_read_with_it(here: Path) -> None:
    assert knn_lm("datastore.tokens=33") == [
        "datastore.tokens: windows of 33 tokens, gpt2 has 32 positions; write at most so many, and a `stride` below"
    ]
    assert retro("train.tokens=64") == ["train.tokens: 64, but gpt2 has 32 positions; write at most so many"]
    assert retro("model.cca_layers=[3]") == [
        "model.cca_layers: cca_layers names [3], but the decoder's layers are 1 to 2"
    ]
    checkpoints.change(here / "gpt2" / "config.json", scale_attn_by_inverse_layer_idx=True)
    assert retro() == [
        "model.decoder: gpt2 scales its attention in a way of its own; name a GPT-2 that scales by head size"
    ]


@pytest.mark.skipif(not __import__("importlib.util").util.find_spec("faiss"), reason="needs faiss")
def test_plan__of_sub_quantizers_that_do_not_divide_its_width(here: Path) -> None:
    index = "{kind: ivf_pq, sub_quantizers: 5}"
    assert knn_lm(f"search.index={index}") == [
        "search.index.sub_quantizers: 5 do not divide the width of 16; write a divisor"
    ]


def test_plan__of_a_translator(here: Path) -> None:
    save(here / "marian", MarianConfig(vocab_size=58, max_position_embeddings=16, decoder_start_token_id=57))
    assert knn_mt("decode.max_tokens=16") == []
    assert knn_mt("decode.max_tokens=17") == [
        "decode.max_tokens: 17 tokens, marian has 16 positions; write at most so many"
    ]
    save(here / "t5", T5Config(vocab_size=58))
    assert knn_mt("decode.max_tokens=5000", name="t5") == [], "distances have no end"
    save(here / "causal", BartConfig(is_encoder_decoder=False, is_decoder=True))
    assert knn_mt(name="causal") == [], "looked at when it is loaded"


def test_plan__of_a_tagger(here: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tagger = "salient_spans={kind: token_classification, name: bert}"
    message = "salient_spans.name: bert has the labels LABEL_0, LABEL_1, and no `O`: not a trained tagger"
    checkpoints.change(here / "bert" / "config.json", id2label={"0": "LABEL_0", "1": "LABEL_1"})
    assert [line[: len(message)] for line in realm(tagger)] == [message]
    assert realm(tagger.replace("}", ", train_files: [a, b]}")) == []
    config = BertConfig(vocab_size=58, id2label={0: "O", 1: "B-PER"}, **sizes)
    BertForTokenClassification(config).save_pretrained(here / "bert")
    assert realm(tagger, *named("encoder", "retriever.encoder", name="elsewhere/bert")) == []


def test_plan__of_a_realm_checkpoint(here: Path) -> None:
    realm_config = {"model_type": "realm", "architectures": ["RealmEmbedder"], "retriever_proj_size": 8}
    checkpoints.change(here / "bert" / "config.json", **realm_config)
    pooled = ("retriever.pooling=pooler", "retriever.projection=8", "retriever.layer_norm=true")
    assert realm(*pooled) == []
    (found,) = realm(*pooled[:2], "retriever.layer_norm=false")
    assert found.startswith(
        "retriever.pooling: bert was trained with a projection of what its pooler gives to 8 numbers"
    )
    checkpoints.change(here / "bert" / "config.json", model_type="distilbert", architectures=None)
    assert any("retriever.pooling: pooler, but bert (distilbert) has none" in line for line in realm(*pooled))


def test_plan__imports_nothing_heavy(here: Path) -> None:
    code = (
        "import sys; from rlm.table import load_table\n"
        f"try: load_table({EXPERIMENTS / 'realm_table2.yaml'!r}, 'tiny', settings={[*named('encoder'), *LENGTHS]!r})\n"
        "except ValueError as error: print(error)\n"
        "print([name for name in ('torch', 'transformers', 'tokenizers', 'safetensors', 'numpy') if name in sys.modules])"
    ).replace("PosixPath(", "__import__('pathlib').Path(")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


FILES = st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "vocab.txt"])
CONTENT = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())
CONFIG = st.dictionaries(
    st.sampled_from("model_type max_position_embeddings vocab_size hidden_size n_embd type_vocab_size n_layer id2label".split()),
    JSON | st.sampled_from(["bert", "gpt2", "t5", "realm", 16, 64]),
    max_size=6,
).map(lambda value: json.dumps(value).encode())  # fmt: skip


@settings(max_examples=20, deadline=None, derandomize=True)
@given(files=st.dictionaries(FILES, CONTENT), config=CONFIG | st.none())
def test_plan__of_any_files(files: dict[str, bytes], config: bytes | None, saved: Path, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name, content in (files | ({} if config is None else {"config.json": config})).items():
        (folder / name).write_bytes(content)
    for plan in (realm, knn_lm, knn_mt):
        assert all("\n" not in line for line in plan(name=str(folder)))
    retro(name=str(folder), chunks=str(folder))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(name=st.text(max_size=30))
def test_plan__of_any_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    knn_lm(name=name)
