"""Translations and their scores, against `generate` and sacrebleu on the same sentences."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF
from transformers import LogitsProcessorList, M2M100Config, M2M100ForConditionalGeneration

from rlm.data.parallel import ParallelText
from rlm.models.knn_mt import NeighbourInterpolation
from rlm.models.translation import DecoderStates, load_translator
from rlm.report.statistics import Sample
from rlm.stages import mt_score, mt_translate
from rlm.stages.columns import corpus_metric, tokens_per_second
from rlm.stages.mt_train import MODEL as SAVED
from tests.stages.mt_world import ALONE, DECODE, MODEL, datastore, score, translate, write_translation_world
from tests.worlds import Surroundings


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_translation_world(tmp_path_factory.mktemp("world"))


def lines(folder: Path, name: str = "translations.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_run__without_a_datastore_is_generate(world, tmp_path) -> None:
    found = lines(translate(tmp_path / "run", world, ALONE))
    text, model = ParallelText.open(world.test), load_translator(MODEL, world.model / SAVED)
    assert [line["id"] for line in found] == [pair.id for pair in text.pairs]
    assert [line["reference"] for line in found] == [pair.target for pair in text.pairs]
    for number, line in enumerate(found):
        ids = torch.from_numpy(text.source[number].astype(np.int64))[None]
        with torch.no_grad():
            written = model.generate(input_ids=ids, num_beams=2, max_new_tokens=24, do_sample=False)
        assert line["hypothesis"] == text.tokenizer.decode(written[0].tolist(), skip_special_tokens=True).strip()


def test_run__of_many_languages_writes_the_one_that_is_named(tmp_path) -> None:
    """Every translation begins with its token, with a datastore and without."""
    config = M2M100Config(
        **{"vocab_size": 40, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32},
        **{"decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "init_std": 0.5},
        **{"pad_token_id": 1, "eos_token_id": 0, "bos_token_id": 0, "decoder_start_token_id": 0},
    )
    torch.manual_seed(0)
    model = M2M100ForConditionalGeneration(config).eval()
    batch = {"ids": torch.randint(4, 40, (5, 6)), "mask": torch.ones(5, 6, dtype=torch.long)}

    def nearest(states, k):
        return torch.ones(len(states), k), torch.full((len(states), k), 7)

    for language in (2, 3):
        plain = mt_translate.translate(model, batch, DECODE, LogitsProcessorList(), language)
        given = model.generate(
            batch["ids"], attention_mask=batch["mask"], num_beams=2, max_new_tokens=24, forced_bos_token_id=language
        )
        assert plain.tolist() == given.tolist()
        with DecoderStates(model) as states:
            mixed = LogitsProcessorList([NeighbourInterpolation(states, nearest, DECODE.knn)])
            found = mt_translate.translate(model, batch, DECODE, mixed, language)
        assert (found[:, 1] == language).all() and (found == 7).any() and plain.tolist() != found.tolist()


def test_score__of_sentences_with_other_ends_of_lines(world, tmp_path) -> None:
    folder = translate(tmp_path / "run", world, ALONE)
    found = lines(folder)
    found[0]["reference"] = "one\u2028two\x85three"
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found)
    (folder / "translations.jsonl").write_text(text, encoding="utf-8")
    scored = score(tmp_path / "score", folder)
    assert len((scored / "sentences.jsonl").read_text().splitlines()) == len(found)


def test_run__with_lambda_0_is_that_without_a_datastore(world, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(mt_translate, "DecoderStates", None)  # nothing is hooked, nothing searched
    none = replace(DECODE, knn=replace(DECODE.knn, weight=0.0))
    one, other = (
        translate(tmp_path / "one", world, ALONE),
        translate(tmp_path / "other", world, none, datastore_0=world.datastore),
    )
    assert lines(one) == lines(other)


def test_run__with_the_pairs_themselves_in_the_datastore_gives_them_back(world, tmp_path) -> None:
    known = datastore(tmp_path / "known", world.test, world.model)
    certain = replace(DECODE, knn=replace(DECODE.knn, weight=1.0, k=1))
    found = lines(translate(tmp_path / "run", world, certain, datastore_0=known))
    assert [line["hypothesis"] for line in found] == [line["reference"] for line in found]


def test_run__of_two_datastores_is_that_of_one_with_both(world, tmp_path) -> None:
    """Joined in either order, but for ties: more pairs are added without rebuilding."""
    general = datastore(tmp_path / "general", world.text, world.model)
    one = lines(translate(tmp_path / "one", world, DECODE, datastore_0=world.datastore, datastore_1=general))
    other = lines(translate(tmp_path / "other", world, DECODE, datastore_0=general, datastore_1=world.datastore))
    alone = lines(translate(tmp_path / "alone", world, DECODE, datastore_0=world.datastore))
    assert one == other != alone


def test_run__goes_on_where_it_was_killed(world, tmp_path, monkeypatch) -> None:
    undisturbed = lines(translate(tmp_path / "undisturbed", world, DECODE, datastore_0=world.datastore))
    whole, calls = mt_translate.translate, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(mt_translate, "translate", killed)
    with pytest.raises(KeyboardInterrupt):
        translate(tmp_path / "run", world, DECODE, datastore_0=world.datastore)
    part = tmp_path / "run" / "part.jsonl"
    part.write_text(part.read_text() + '{"hypotheses": ["cut')
    translate(tmp_path / "run", world, DECODE, datastore_0=world.datastore)
    assert len(calls) == 2 + 2, "of three batches the first was kept"
    assert lines(tmp_path / "run") == undisturbed and not part.exists()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"k": 10**6}, r"decode\.knn\.k: 1000000 neighbours of a datastore of \d+ keys; write at most so many"),
        ({}, "a datastore of another model"),
    ],
)
def test_run__refuses_what_cannot_be_searched(world, tmp_path, changed: dict, expected: str) -> None:
    if not changed:
        other = tmp_path / "mt_train-other"
        other.symlink_to(world.model)
        world = replace(world, model=other)
    with pytest.raises(ValueError, match=expected):
        translate(
            tmp_path / "run", world, replace(DECODE, knn=replace(DECODE.knn, **changed)), datastore_0=world.datastore
        )


def test_run__writes_what_the_columns_read(world, tmp_path) -> None:
    translated = translate(tmp_path / "run", world, ALONE)
    scored = score(tmp_path / "score", translated)
    metrics = mt_score.run({}, {"translations": translated}, scored, Surroundings())
    texts = [[line[name] for line in lines(translated)] for name in ("hypothesis", "reference")]
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        column = corpus_metric(name, name, role="score")
        values, weights = (
            np.array(each, np.float64)[None] for each in zip(*map(column.read, lines(scored, column.file)), strict=True)
        )
        figure = Sample(values, weights, column.aggregate).by_seed()[0]
        assert figure == pytest.approx(metric.corpus_score(texts[0], [texts[1]]).score, abs=1e-9)
        assert metrics[column.metric] == pytest.approx(figure, abs=1e-9) and figure > 0
    column = tokens_per_second(role="translate", units="sentences")
    tokens, seconds = zip(*map(column.read, lines(translated, column.file)), strict=True)
    text = ParallelText.open(world.test)
    again = [len(text.tokenizer(line["hypothesis"])["input_ids"]) for line in lines(translated)]
    cut = [min(count, 24) for count in again]
    assert sum(a == b for a, b in zip(tokens, cut, strict=True)) > 15, "tokens of the translation, its end included"
    assert all(second > 0 for second in seconds)
