import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from rlm.config import to_plain
from rlm.data.config import (
    CorpusConfig,
    DocumentsConfig,
    EncyclopediaSource,
    FilesSource,
    TrainedByteTokenizer,
    TrainedTokenizer,
)
from rlm.models.config import IctConfig, Training
from rlm.models.retro_config import LeakageConfig, PerplexityConfig, RetroConfig
from rlm.retrieval.config import DualEncoderConfig, NeighboursConfig, ScratchEncoder
from rlm.stages.forecast import Forecast, Machine
from rlm.stages.stage import Stage

MACHINE = Machine(device="cpu", threads=2)
CORPUS = Stage(
    name="corpus",
    config={"corpus": CorpusConfig(source=EncyclopediaSource(entities=1000)), "tokenizer": TrainedTokenizer()},
)


def _ict(steps: int, batch_size: int = 8) -> Stage:
    return Stage(
        name="ict",
        config={
            "retriever": DualEncoderConfig(encoder=ScratchEncoder()),
            "ict": IctConfig(training=Training(steps=steps, batch_size=batch_size, learning_rate=1e-3)),
        },
        inputs={"corpus": CORPUS},
        seed=0,
    )


def _record(store: Path, stage: Stage, seconds: float, **more: object) -> None:
    folder = store / "stages" / stage.folder
    folder.mkdir(parents=True)
    record = {
        "name": stage.name,
        "config": to_plain(stage.config),
        "inputs": {role: source.folder for role, source in stage.inputs.items()},
        "seconds": seconds,
        "peak_memory_bytes": 1e9,
        "disk_bytes": 1e7,
        "device": "cpu (x)",
        "metrics": {},
        **more,
    }
    (folder / "stage.json").write_text(json.dumps(record))


def test_cost__when_nothing_is_recorded(tmp_path: Path) -> None:
    forecast = Forecast(tmp_path, MACHINE)
    cost = forecast.cost(_ict(100_000))
    assert cost.source == "formula"
    # 2 * 12 * layers * width^2 operations a token forward, three times that in training, at 6e10 a second and core.
    operations = 3 * 100_000 * 8 * (64 + 288) * 2 * 12 * 2 * 128**2
    assert cost.seconds == pytest.approx(1 + operations / 1.2e11)
    assert forecast.cost(_ict(200_000)).seconds - 1 == pytest.approx(2 * (cost.seconds - 1))
    assert forecast.cost(_ict(100_000, 80)).memory_bytes > cost.memory_bytes


def test_cost__when_a_like_stage_is_recorded_it_is_scaled(tmp_path: Path) -> None:
    _record(tmp_path, _ict(100_000), 500.0)
    cost = Forecast(tmp_path, MACHINE).cost(_ict(200_000))
    assert cost.source.startswith(f"like {_ict(100_000).folder} x 2")
    assert cost.seconds == pytest.approx(1000.0, rel=0.02)
    assert cost.memory_bytes == 1e9
    assert cost.disk_bytes == 1e7


def test_cost__when_the_nearest_record_is_taken(tmp_path: Path) -> None:
    _record(tmp_path, _ict(100), 77.0)
    _record(tmp_path, _ict(100_000), 500.0)
    assert Forecast(tmp_path, MACHINE).cost(_ict(90_000)).source.startswith(f"like {_ict(100_000).folder}")


def test_cost__when_the_record_is_of_another_device(tmp_path: Path) -> None:
    _record(tmp_path, _ict(100_000), 500.0)
    assert Forecast(tmp_path, replace(MACHINE, device="cuda")).cost(_ict(200_000)).source == "formula"


def test_cost__when_the_stage_itself_is_recorded(tmp_path: Path) -> None:
    _record(tmp_path, _ict(100_000), 500.0)
    assert Forecast(tmp_path, MACHINE).cost(_ict(100_000)).source == "measured"


def test_cost__when_a_record_is_of_another_version(tmp_path: Path) -> None:
    _record(tmp_path, _ict(100), 5.0, config={"retriever": {"encoder": {"kind": "gone"}}})
    (tmp_path / "stages" / "broken-0").mkdir()
    (tmp_path / "stages" / "broken-0" / "stage.json").write_text("{")
    assert Forecast(tmp_path, MACHINE).cost(_ict(200)).source == "formula"


def test_cost__when_the_corpus_tells_its_passages(tmp_path: Path) -> None:
    index = Stage(
        name="index",
        config={"retriever": DualEncoderConfig(encoder=ScratchEncoder(), projection=128), "index": None},
        inputs={"corpus": CORPUS},
    )
    _record(tmp_path, CORPUS, 5.0, metrics={"passages": 1e6})
    assert Forecast(tmp_path, MACHINE).cost(index).disk_bytes == pytest.approx(1e6 * 128 * 4, rel=0.01)


def _documents(entities: int) -> Stage:
    config = DocumentsConfig(source=EncyclopediaSource(entities=entities))
    return Stage(name="documents", config={"documents": config, "tokenizer": TrainedByteTokenizer()})


def _perplexity(text: Stage, **settings: int) -> Stage:
    evaluate = PerplexityConfig(precision="float32", **settings)
    return Stage(name="perplexity", config={"model": RetroConfig(), "evaluate": evaluate}, inputs={"text": text})


def test_cost__when_a_text_is_longer_or_more_is_read(tmp_path: Path) -> None:
    forecast = Forecast(tmp_path, MACHINE)

    def seconds(stage: Stage) -> float:
        return forecast.cost(stage).seconds - 1

    text = _documents(1000)
    assert seconds(_documents(3000)) == pytest.approx(3 * seconds(text))
    assert seconds(_perplexity(_documents(3000))) == pytest.approx(3 * seconds(_perplexity(text)))
    assert seconds(_perplexity(text, stride=256)) == pytest.approx(2 * seconds(_perplexity(text)))
    assert seconds(_perplexity(text, k=0)) < seconds(_perplexity(text, k=2)) < seconds(_perplexity(text, k=4))


def test_cost__of_leakage_grows_with_the_pairs_compared(tmp_path: Path) -> None:
    def seconds(entities: int, k: int) -> float:
        config = {"neighbours": NeighboursConfig(k=k), "leakage": LeakageConfig()}
        stage = Stage(name="leakage", config=config, inputs={"text": _documents(entities)})
        return Forecast(tmp_path, MACHINE).cost(stage).seconds - 1

    assert seconds(3000, 4) == pytest.approx(3 * seconds(1000, 4)) == pytest.approx(1.5 * seconds(1000, 8))


def test_cost__when_the_documents_tell_their_tokens(tmp_path: Path) -> None:
    text = _documents(1000)
    _record(tmp_path, text, 5.0, metrics={"tokens": 1e6})
    once = Forecast(tmp_path, MACHINE).cost(_perplexity(text))
    _record(tmp_path, _documents(1001), 5.0, metrics={"tokens": 2e6})
    twice = Forecast(tmp_path, MACHINE).cost(_perplexity(_documents(1001)))
    assert twice.seconds - 1 == pytest.approx(2 * (once.seconds - 1))


def test_cost__when_files_are_limited(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_bytes(b"x" * 240_000)

    def seconds(limit: int | None) -> float:
        config = CorpusConfig(source=FilesSource(files=("*.jsonl",), limit=limit))
        stage = Stage(name="corpus", config={"corpus": config, "tokenizer": TrainedTokenizer()})
        return Forecast(tmp_path / "store", MACHINE, tmp_path / "data").cost(stage).seconds - 1

    assert seconds(None) == pytest.approx(seconds(1000))
    assert seconds(100) == pytest.approx(seconds(None) / 10)


def test_cost__when_the_shipped_table_is_forecast(root: Path, tmp_path: Path) -> None:
    from rlm.table import distinct_stages, load_table

    realm, retro = (root / "experiments" / name for name in ("realm_table2.yaml", "retro_leakage.yaml"))
    scales = [(realm, scale) for scale in ("tiny", "small", "mini", "paper")]
    scales += [(retro, scale) for scale in ("tiny", "small", "mini")]
    for path, scale in scales:
        table = load_table(path, scale)
        forecast = Forecast(tmp_path, MACHINE)
        costs = [forecast.cost(stage) for stage, _ in distinct_stages(table.cells(lambda source: "")).values()]
        assert all(math.isfinite(cost.seconds) and cost.seconds > 0 for cost in costs)
        assert all(math.isfinite(cost.memory_bytes) and math.isfinite(cost.disk_bytes) for cost in costs)
