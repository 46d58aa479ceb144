"""What the files of a checkpoint say and whether they are whole, without torch or transformers (imports nothing heavy).

Every function takes a folder that is there, and raises ConfigError with the file, what is wrong, and what to do.
"""

import functools
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlm.errors import ConfigError

Family = Literal["encoder", "decoder", "encoder-decoder"]

ENCODERS = frozenset(
    "albert bert big_bird camembert canine convbert data2vec-text deberta deberta-v2 distilbert electra ernie esm"
    " eurobert fnet funnel gte ibert layoutlm longformer luke megatron-bert mobilebert modernbert mpnet mra nomic_bert"
    " nystromformer realm rembert roberta roberta-prelayernorm roc_bert roformer squeezebert xlm-roberta xlm-roberta-xl"
    " xmod yoso".split()
)
DECODERS = frozenset(
    "biogpt bitnet bloom codegen cohere cohere2 ctrl deepseek_v2 deepseek_v3 exaone4 falcon gemma gemma2 gemma3_text"
    " glm glm4 gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_oss gptj granite granitemoe helium jamba llama llama4_text"
    " mamba mamba2 ministral mistral mixtral modernbert-decoder mpt nemotron olmo olmo2 olmo3 olmoe openai-gpt opt"
    " persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe recurrent_gemma rwkv seed_oss smollm3 stablelm"
    " starcoder2 xglm".split()
)
ENCODER_DECODERS = frozenset(
    "bart bigbird_pegasus blenderbot blenderbot-small encoder-decoder fsmt led longt5 m2m_100 marian mbart mt5 mvp"
    " nllb-moe pegasus pegasus_x plbart prophetnet switch_transformers t5 t5gemma umt5".split()
)
"""Model types of transformers; one that is in none is looked at when it is loaded."""
OFFSET = frozenset(
    "camembert data2vec-text esm ibert longformer luke mpnet roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl"
    " xmod".split()
)
"""Their positions are counted from the padding's number + 1, so that as many fewer tokens can be read."""
RELATIVE = frozenset("longt5 mt5 switch_transformers t5 umt5".split())
"""They see distances between tokens, which have no end; `n_positions` is only what T5 was trained on."""

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""In the order in which transformers looks for them."""
DAMAGED = "cut short or damaged; download it again"
_HEADER = 100_000_000  # bytes that the safetensors library reads at most
_LARGEST = 1 << 53
_BITS = {
    **{"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16},
    **{"I16": 16, "U16": 16, "BOOL": 8, "I8": 8, "U8": 8, "F8_E4M3": 8, "F8_E5M2": 8},
}


@dataclass(frozen=True)
class Description:
    """What config.json says of a model; None where it does not say."""

    name: str
    model_type: str
    """"" where it is not named: transformers reads no such checkpoint."""
    family: Family | None
    positions: int | None
    """Tokens that it reads at once."""
    segments: int | None
    vocabulary: int | None
    width: int | None
    layers: int | None
    labels: tuple[str, ...]
    """Of a token classifier."""
    plain: dict[str, Any]
    """All of it."""


def describe(name: str, folder: Path) -> Description:
    """Read config.json.

    Args:
        name: of the checkpoint in messages.
        folder: where its files are.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = folder / "config.json"
    if not os.path.lexists(path):
        raise ConfigError(f"{name}: no config.json in the folder, so no checkpoint; {_instead(folder)}")
    plain = read_json(path)
    model_type = plain.get("model_type")
    if not isinstance(model_type, str | None):
        raise ConfigError(
            f"{path}: `model_type` is {in_json(model_type)}; write a name, such as bert, or download it again"
        )
    whole = functools.partial(_whole, path, plain)
    return Description(
        name=name,
        model_type=model_type or "",
        family=family_of(plain),
        positions=positions_of(plain, path),
        segments=whole("type_vocab_size", least=0),
        vocabulary=whole("vocab_size"),
        width=whole("hidden_size", "n_embd", "d_model", "dim", "embedding_size"),
        layers=whole("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        labels=_labels(path, plain),
        plain=plain,
    )


def family_of(plain: dict[str, Any]) -> Family | None:
    """Whether a model reads both sides, one side, or one text to write another; None where its type is not known."""
    model_type = plain.get("model_type")
    if plain.get("is_encoder_decoder", model_type in ENCODER_DECODERS) is True:
        return "encoder-decoder"
    if model_type in DECODERS or (model_type in ENCODERS and plain.get("is_decoder") is True):
        return "decoder"
    return "encoder" if model_type in ENCODERS else None


def positions_of(plain: dict[str, Any], path: Path = Path("config.json")) -> int | None:
    """Tokens that a model reads at once; None where there is no limit, or config.json does not say."""
    model_type = plain.get("model_type")
    if model_type in RELATIVE:
        return None
    found = _whole(path, plain, "max_position_embeddings", "n_positions")
    if found is not None and model_type in OFFSET:
        padding = _whole(path, plain, "pad_token_id", least=0)
        return found - 1 - (1 if padding is None else padding)
    return found


def _whole(path: Path, plain: dict[str, Any], *names: str, least: int = 1) -> int | None:
    """The number under the first of the names that there is."""
    for name in names:
        value = plain.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _LARGEST:
                raise ConfigError(
                    f"{path}: `{name}` is {in_json(value)}; write a whole number of at least {least}, or download it"
                    " again"
                )
            return value
    return None


def _labels(path: Path, plain: dict[str, Any]) -> tuple[str, ...]:
    labels = plain.get("id2label")
    if labels is None:
        return ()
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        raise ConfigError(f"{path}: `id2label` is {in_json(labels)}; write the name of each label by its number")
    return tuple(labels.values())


def _instead(folder: Path) -> str:
    """What to write for a folder that is no checkpoint."""
    try:
        inside = sorted(folder.iterdir())
        nested = [path.name for path in inside if (path / "config.json").is_file()]
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if nested:
        return f"its folder {in_json(nested[0])} has one: write the path of that"
    if any(path.name == "adapter_config.json" for path in inside):
        return "it holds an adapter (LoRA): merge it into its model, and save that"
    if any(path.suffix == ".gguf" for path in inside):
        return "it holds GGUF, which is not read: write the path of the weights it was made of"
    return "write the path of a downloaded checkpoint, or a name of the hub"


def in_json(value: Any) -> str:
    """A value of a file, in a message."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "nested without end"
    return text if len(text) <= 60 else text[:57] + "..."


def read_json(path: Path) -> dict[str, Any]:
    """A mapping in a file of a checkpoint.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    text = _text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        # `cannot decode`, an integer of a million digits, brackets without end
        raise ConfigError(f"{path}: no JSON ({_first_line(error)}): {DAMAGED}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds {in_json(value)} in place of a mapping: {DAMAGED}")
    return value


def _text(path: Path) -> str:
    readable(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: no UTF-8 text: {DAMAGED}") from None
    _refuse_pointer(path, text[:100].encode())
    return text


def readable(path: Path) -> None:
    """Refuse what is no file: a link to nothing, a folder, what may not be read."""
    try:
        if not path.exists():
            raise ConfigError(f"{path}: a link to a file that is not there; download it again")
        if not path.is_file():
            raise ConfigError(f"{path}: no file; download it again")
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


def _refuse_pointer(path: Path, start: bytes) -> None:
    if start.startswith(b"version https://git-lfs"):
        raise ConfigError(f"{path}: a pointer of Git LFS, not the file itself; `git lfs pull` in its folder")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


# ---- weights ----


def weight_files(folder: Path) -> list[Path]:
    """The files of the weights that transformers would read, each there; none where the folder has no weights.

    Raises:
        ConfigError: the list of the files is damaged, or one of them is missing.
    """
    name = next((name for name in WEIGHTS if os.path.lexists(folder / name)), None)
    if name is None:
        return []
    if not name.endswith(".index.json"):
        return [folder / name]
    index = folder / name
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise ConfigError(f"{index}: no `weight_map` with the file of each weight: {DAMAGED}")
    files = [folder / file for file in dict.fromkeys(listed.values())]
    missing = [path for path in files if not os.path.lexists(path)]
    if missing:
        raise ConfigError(
            f"{index}: {len(missing)} of {len(files)} files are not there, the first {in_json(missing[0].name)};"
            " download them, too"
        )
    return files


def check_weights(folder: Path) -> None:
    """Compare the sizes that the weights' files state with those that they have.

    Raises:
        ConfigError: a file that is missing, cut short or damaged.
    """
    for path in weight_files(folder):
        readable(path)
        try:
            status = path.stat()
            _check(path, status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


@functools.lru_cache(maxsize=1024)
def _check(path: Path, size: int, changed: int) -> None:
    """Of one file; rows that name the same are not read again."""
    with path.open("rb") as file:
        start = file.read(100)
        _refuse_pointer(path, start)
        if size == 0:
            raise ConfigError(f"{path}: empty; download it again")
        if path.suffix == ".safetensors":
            length = int.from_bytes(start[:8], "little")
            if size < 8 or length > min(_HEADER, size - 8):
                raise ConfigError(f"{path}: {DAMAGED} (its header has {length:,} bytes, the file {size:,})")
            file.seek(8)
            stated = _stated_size(path, file.read(length))
            if stated != size - 8 - length:
                raise ConfigError(
                    f"{path}: {DAMAGED} (its weights are {stated:,} bytes, of which the file has {size - 8 - length:,})"
                )
            return
    # before torch 1.6 it was a pickle, which states no size
    if not start.startswith(b"\x80") and not zipfile.is_zipfile(path):
        raise ConfigError(f"{path}: {DAMAGED} (the end of the archive is missing)")


def _stated_size(path: Path, header: bytes) -> int:
    """Bytes of all weights that a safetensors header lists, which follow each other without a gap."""
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        spans = sorted((*entry["data_offsets"], entry["shape"], str(entry["dtype"])) for entry in entries.values())
        end = 0
        for first, last, shape, dtype in spans:
            if not all(type(number) is int and 0 <= number < _LARGEST for number in (first, last, *shape)):
                raise ValueError("no sizes")
            count = functools.reduce(lambda count, side: min(count * side, _LARGEST), shape, 1)
            if first != end or last < first or count * _BITS.get(dtype, 0) not in (0, 8 * (last - first)):
                raise ValueError("sizes that do not fit")
            end = last
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ConfigError(f"{path}: {DAMAGED} (its header is not readable)") from None
    return end
