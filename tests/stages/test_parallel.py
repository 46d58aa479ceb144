"""Pairs of sentences as a stage: tokenised, and refused where the model could not read them."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import MarianConfig

from rlm.data.parallel import ParallelText
from rlm.data.parallel_config import ParallelConfig, TrainedPairTokenizer
from rlm.errors import ConfigError
from rlm.models.translation_config import PretrainedTranslator
from rlm.stages import parallel
from tests.stages.mt_world import book, made
from tests.worlds import Surroundings

TOKENIZER = TrainedPairTokenizer(vocab_size=400)


def text(folder: Path, reader: int | PretrainedTranslator, **pairs: ParallelConfig) -> ParallelText:
    return ParallelText.open(made(folder, parallel, {"pairs": pairs, "tokenizer": TOKENIZER, "reader": reader}, {}))


def test_run__of_several_texts_names_their_pairs_apart(tmp_path: Path) -> None:
    alone = text(tmp_path / "alone", 64, law=book("law"))
    both = text(tmp_path / "both", 64, general=book(), law=book("law"))
    assert [f"law/{pair.id}" for pair in alone.pairs] == [pair.id for pair in both.pairs[200:]]
    assert (len(both), both.pairs[0].id[:8]) == (400, "general/")


def test_run__refuses_what_the_model_cannot_read(tmp_path: Path) -> None:
    whole = text(tmp_path / "whole", 64, law=book("law"))
    longest = int(max(whole.source.lengths.max(), whole.target.lengths.max()))
    text(tmp_path / "fits", longest, law=book("law"))
    for reader in (longest - 1, PretrainedTranslator(name=str(tmp_path / "marian"))):
        MarianConfig(max_position_embeddings=longest - 1).save_pretrained(tmp_path / "marian")
        with pytest.raises(ConfigError, match=f"pairs are longer than the {longest - 1} tokens that the model reads"):
            text(tmp_path / "refused", reader, law=book("law"))
    left = text(tmp_path / "left", longest - 1, law=replace(book("law"), longest=longest - 1))
    assert 0 < len(left) < len(whole) and set(left.pairs) < set(whole.pairs)


def test_run__refuses_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.name: `.*nothing` gives no model"):
        text(tmp_path / "run", PretrainedTranslator(name=str(tmp_path / "nothing")), law=book("law"))


def test_run__reports_progress_over_all_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "REPORT_EVERY", 150)
    surroundings = Surroundings()
    config = {"pairs": {"law": book("law"), "general": book()}, "tokenizer": TOKENIZER, "reader": 64}
    parallel.run(config, {}, tmp_path, surroundings)
    assert surroundings.shown == [(150, 150), (300, 300)]
