import pytest

from rlm.data.config import CorpusConfig, EncyclopediaSource, TrainedTokenizer
from rlm.models.config import IctConfig, Training
from rlm.retrieval.config import DualEncoderConfig, ScratchEncoder
from rlm.stages import stage as stage_module
from rlm.stages.stage import Stage
from rlm.stages.wire import pack, unpack


@pytest.fixture
def ict(monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(stage_module, "VERSIONS", {"corpus": 1, "ict": 1})
    corpus = Stage(
        name="corpus",
        config={
            "corpus": CorpusConfig(source=EncyclopediaSource(entities=10), max_tokens=64),
            "tokenizer": TrainedTokenizer(),
        },
        content="abc",
    )
    return Stage(
        name="ict",
        config={
            "retriever": DualEncoderConfig(encoder=ScratchEncoder(layers=1)),
            "ict": IctConfig(training=Training(steps=10, batch_size=4, learning_rate=1e-3)),
        },
        inputs={"corpus": corpus},
        seed=7,
    )


def test_key__when_frozen(ict: Stage) -> None:
    # If this fails, every store in use becomes stale: a changed rule of hashing needs a reason.
    assert ict.inputs["corpus"].folder == "corpus-9081b2f46a8489a8"
    assert ict.folder == "ict-bbe6b32774effa3c"


def test_key__when_something_that_identifies_it_changes(ict: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = ict.inputs["corpus"]
    others = [
        Stage(name="ict", config=ict.config, inputs=ict.inputs, seed=8),
        Stage(name="ict", config=ict.config, inputs={"text": corpus}, seed=7),
        Stage(name="ict", config={**ict.config, "retriever": None}, inputs=ict.inputs, seed=7),
        Stage(name="ict", config=ict.config, inputs=ict.inputs, seed=7, content="x"),
        Stage(
            name="ict",
            config=ict.config,
            inputs={"corpus": Stage(name="corpus", config=corpus.config, content="changed")},
            seed=7,
        ),
    ]
    assert ict.key
    monkeypatch.setitem(stage_module.VERSIONS, "ict", 2)
    newer = Stage(name="ict", config=ict.config, inputs=ict.inputs, seed=7)
    assert newer.key != ict.key, "of the version before"
    monkeypatch.setitem(stage_module.VERSIONS, "ict", 1)
    keys = [ict.key, newer.key, *(other.key for other in others)]
    assert len(set(keys)) == len(keys)


def test_key__when_a_default_is_written_out(ict: Stage) -> None:
    written = {**ict.config, "retriever": DualEncoderConfig(encoder=ScratchEncoder(layers=1, heads=2), scale=16.0)}
    assert Stage(name="ict", config=written, inputs=ict.inputs, seed=7).key == ict.key


def test_unpack__when_packed(ict: Stage) -> None:
    again = unpack(pack(ict))
    assert again == ict
    assert again.key == ict.key
    assert isinstance(again.config["retriever"].encoder, ScratchEncoder)


def test_unpack__when_a_type_is_foreign(ict: Stage) -> None:
    packed = pack(ict)
    packed["stages"][ict.key]["config"] = {"type": "subprocess:Popen", "value": {}}
    with pytest.raises(RuntimeError, match="subprocess:Popen is no configuration of rlm"):
        unpack(packed)


def test_unpack__when_the_code_changed_between(ict: Stage) -> None:
    packed = pack(ict)
    packed["stages"][ict.key]["seed"] = 8
    with pytest.raises(RuntimeError, match="rlm changed since; start again"):
        unpack(packed)
