"""Checkpoints of Hugging Face's REALM classes, which transformers 5 has no more: a BERT with its pooler, a projection.

RealmEmbedder (`google/realm-cc-news-pretrained-embedder`) computes LayerNorm(W tanh(P h_[CLS] + p) + b); RealmScorer
and RealmForOpenQA hold one as `embedder`, and RealmKnowledgeAugEncoder a masked-token head.
"""

from typing import Any

from torch import Tensor, nn

from rlm.data.pretrained import check_complete, explained, read_weights
from rlm.errors import ConfigError
from rlm.retrieval.config import DualEncoderConfig, PretrainedEncoder, projection_mistake

PROJECTION = {"cls.dense": "projection", "cls.LayerNorm": "layer_norm"}
"""Names of the projection's weights, there and here."""


def is_realm(config: Any) -> bool:
    """Whether a configuration was read from a REALM checkpoint."""
    return getattr(config, "retriever_proj_size", None) is not None


def read_realm(model: Any, named: PretrainedEncoder, field: str, failure: str, untrained: str = "") -> Any:
    """Give a BERT of transformers, with or without a head, a REALM checkpoint's weights. As `load_model`."""
    weights = realm_weights(named, field, failure)
    prefix = "" if any(name.startswith("bert.") for name in model.state_dict()) else "bert."
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(("bert.", "cls."))}
    found = explained(lambda place, **_: model.load_state_dict(own, strict=False), named, field, failure)
    check_complete(model, found.missing_keys, named.name, field, failure, untrained)
    return model.eval()


def read_realm_projection(retriever: nn.Module, config: DualEncoderConfig, field: str, failure: str) -> None:
    """Give a dual encoder the projection of its REALM checkpoint, where it has one.

    Raises:
        ConfigError: the dual encoder projects another vector, or to another width.
    """
    assert isinstance(config.encoder, PretrainedEncoder)
    if config.projection is None:
        return
    weights = realm_weights(config.encoder, field, failure)
    own = {
        name.replace(there, here): value
        for there, here in PROJECTION.items()
        for name, value in weights.items()
        if name.startswith(f"{there}.")
    }
    if "projection.weight" not in own:
        return  # a knowledge-augmented encoder
    if mistake := projection_mistake(config, config.encoder.name, len(own["projection.weight"])):
        raise ConfigError(f"retriever.pooling: {mistake}")
    explained(lambda place, **_: retriever.load_state_dict(own, strict=False), config.encoder, field, failure)
    check_complete(retriever, set(), config.encoder.name, field, failure, "")


def realm_weights(named: PretrainedEncoder, field: str, failure: str) -> dict[str, Tensor]:
    """All weights but those of a reader, as BERT has them: `bert.encoder...`, `cls.predictions...`; and `cls.dense...`,
    `cls.LayerNorm...` of the projection. Errors as of `load_model`."""

    found = {}
    for name, value in read_weights(named, field, failure).items():
        name = name.removeprefix("embedder.")
        if name.startswith(("realm.", "cls.")):
            found[name.replace("realm.", "bert.", 1) if name.startswith("realm.") else name] = value
    return found
