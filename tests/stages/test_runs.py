import json
import re
from pathlib import Path

import pytest

from rlm.errors import ConfigError
from rlm.stages.runs import config_part, find_run, input_folder

KINDS = ("finetune", "pretrain")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for name in ("finetune-aa", "finetune-ab", "pretrain-cc", "index-ee", "ict-dd.tmp"):
        (tmp_path / "stages" / name).mkdir(parents=True)
        (tmp_path / "stages" / name / "stage.json").write_text(json.dumps({}))
    return tmp_path


@pytest.mark.parametrize(
    ("run", "found"),
    [("finetune-aa", "finetune-aa"), ("/elsewhere/stages/finetune-ab", "finetune-ab"), ("pre", "pretrain-cc")],
)
def test_find_run__when_its_beginning_is_enough(store: Path, run: str, found: str) -> None:
    assert find_run(store, run, KINDS) == store / "stages" / found


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("finetune", "finetune: 2 finished stages of .* begin so; write one of finetune-aa, finetune-ab"),
        ("pretrian-cc", "no such finished stage in .*; did you mean `pretrain-cc`. Known: finetune-aa, .*, pretrain-cc$"),
        ("ict-dd", "ict-dd: no such finished stage"),
        ("/", "/: no such finished stage"),
        ("..", r"\.\.: no such finished stage"),
        ("index", "index-ee is no finetune or pretrain stage; Known: finetune-aa, finetune-ab, pretrain-cc"),
    ],
)  # fmt: skip
def test_find_run__when_it_finds_none_that_can_be_used(store: Path, run: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_run(store, run, KINDS)


def test_input_folder__when_the_store_no_longer_has_it(store: Path) -> None:
    record = {"name": "finetune", "key": "aa", "inputs": {"index": "index-ee", "corpus": "corpus-ff"}}
    assert input_folder(store, record, "index") == store / "stages" / "index-ee"
    message = f"finetune-aa: its corpus, corpus-ff, is not in {store}; run its table again"
    with pytest.raises(ConfigError, match=re.escape(message)):
        input_folder(store, record, "corpus")


def test_input_folder__when_the_record_names_none() -> None:
    with pytest.raises(ConfigError, match="finetune-aa: stage.json names no input `index`; run its table again"):
        input_folder(Path("runs"), {"name": "finetune", "key": "aa", "inputs": {}}, "index")


@pytest.mark.parametrize("config", [{}, {"train": 5}, {"train": {"k": 1}}, {"train": None}])
def test_config_part__when_the_record_has_none(config: dict) -> None:
    record = {"name": "retro_train", "key": "aa", "config": config}
    with pytest.raises(ConfigError, match="retro_train-aa: stage.json has no `config.train.tokens`"):
        config_part(record, "train", "tokens")
    assert config_part({**record, "config": {"train": {"tokens": 7}}}, "train", "tokens") == 7
