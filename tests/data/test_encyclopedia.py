"""The generated world: unique names, true facts, other words in the news, and no memory."""

import itertools
import tracemalloc
from dataclasses import replace

import pytest

from rlm.data.config import EncyclopediaSource
from rlm.data.encyclopedia import SPLITS, World, passages, questions
from rlm.data.relations import RELATIONS
from rlm.metrics.answers import has_answer

SOURCE = EncyclopediaSource(entities=300)


@pytest.mark.parametrize("entities", [300, 30_000])
def test_names__are_unique_and_short_forms_too(entities: int) -> None:
    world = World(EncyclopediaSource(entities=entities))
    kinds = [world.kind(entity) for entity in range(entities)]
    assert len(set(kinds)) == entities
    assert len({world.name(*kind) for kind in kinds}) == entities
    assert len({world.short(*kind) for kind in kinds}) == entities


def test_questions__are_answered_by_exactly_the_passage_of_their_fact() -> None:
    world, told = World(SOURCE), list(passages(SOURCE))
    by_title: dict[str, list[str]] = {}
    for passage in told:
        by_title.setdefault(passage.title, []).append(passage.text)
    for question in questions(SOURCE, "dev"):
        entity = int(question.id.split("-")[0])
        own = by_title[world.name(*world.kind(entity))]
        assert sum(has_answer(text, question.answers, "string") for text in own) >= 1


def test_questions__of_the_splits_are_disjoint_and_in_proportion() -> None:
    ids = {split: {question.id for question in questions(SOURCE, split)} for split in SPLITS}
    assert not any(a & b for a, b in itertools.combinations(ids.values(), 2))
    facts = len([0 for entity in range(300) for _ in World(SOURCE).relations(entity)])
    assert len(ids["train"]) / facts == pytest.approx(6 / 40, rel=0.2)


def test_news__tells_every_fact_once_in_other_words() -> None:
    world = World(SOURCE)
    news = " ".join(passage.text for passage in passages(replace(SOURCE, stream="news")))
    entries = {passage.text for passage in passages(SOURCE)}
    facts = [(entity, relation) for entity in range(300) for relation in world.relations(entity)]
    for entity, relation in facts:
        assert world.object(entity, relation) in news
    assert not any(text in news for text in entries)


def test_lives__tell_every_fact_and_copy_sentences_of_the_passages() -> None:
    world = World(SOURCE)
    lives = {passage.id: passage.text for passage in passages(replace(SOURCE, stream="lives"))}
    assert len(lives) == 300
    copied = [0.0] * 300
    for entity in range(300):
        assert all(world.object(entity, relation) in lives[f"life-{entity}"] for relation in world.relations(entity))
    for passage in passages(SOURCE):
        entity = int(passage.id.split("-")[0])
        sentences = passage.text.split(". ")
        told = sum(sentence.strip(".") in lives[f"life-{entity}"] for sentence in sentences)
        copied[entity] += told / len(sentences) / (len(world.relations(entity)) / 2)
    assert max(copied) < 1, "a text that is in the corpus as it is finds no neighbour of its own document"
    assert 0.4 < sum(share > 0.8 for share in copied) / 300 < 0.7
    assert 0.6 < sum(copied) / 300 < 0.8


def test_wordings__name_subject_and_object_once_and_questions_only_the_subject() -> None:
    for relation in itertools.chain.from_iterable(RELATIONS.values()):
        for text in (relation.entry, relation.news):
            assert (text.count("{s}"), text.count("{o}")) == (1, 1), text
        for text in relation.questions:
            assert (text.count("{s}"), text.count("{o}")) == (1, 0), text


def test_second_edition__changes_a_tenth_of_the_facts_and_nothing_else() -> None:
    first, second = list(passages(SOURCE)), list(passages(replace(SOURCE, edition="second")))
    assert [(p.id, p.title) for p in first] == [(p.id, p.title) for p in second]
    facts = [(e, r) for e in range(300) for r in World(SOURCE).relations(e)]
    worlds = World(SOURCE), World(replace(SOURCE, edition="second"))
    changed = sum(worlds[0].object(*fact) != worlds[1].object(*fact) for fact in facts) / len(facts)
    assert 0.07 < changed < 0.13


def test_world_seed__gives_another_world() -> None:
    texts = [{p.text for p in passages(replace(SOURCE, world_seed=seed))} for seed in (0, 1)]
    assert not texts[0] & texts[1]


def test_passages__are_streamed() -> None:
    tracemalloc.start()
    for _ in itertools.islice(passages(EncyclopediaSource(entities=10_000_000)), 5_000):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
