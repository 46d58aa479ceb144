"""The two generated languages: the same each time, and what makes a domain's datastore worth having."""

from collections import Counter

import pytest

from rlm.data.parallel_config import PhrasebookSource
from rlm.data.phrasebook import _TEMPLATES, Pair, pairs

WORDS = 300


def drawn(domain: str = "general", split: str = "train", sentences: int = 1500) -> list[Pair]:
    return list(pairs(PhrasebookSource(domain=domain, split=split, sentences=sentences, words=WORDS)))


def dictionary(found: list[Pair]) -> dict[str, set[str]]:
    """Translations of each word, by the templates."""
    known: dict[str, set[str]] = {}
    for pair in found:
        source, target = pair.source.strip(".").split(), pair.target.strip(".").split()
        for template, translated, _ in _TEMPLATES:
            forms, others = template.split(), translated.split()
            fits = len(forms) == len(source) and len(others) == len(target)
            if fits and all(a == b for a, b in zip(forms, source, strict=True) if "{" not in a):
                for place, form in enumerate(forms):
                    if "{" in form:
                        known.setdefault(source[place], set()).add(target[others.index(form)])
                break
    return known


def test_pairs__are_the_same_each_time_and_a_prefix_of_more() -> None:
    assert drawn(sentences=50) == drawn(sentences=80)[:50]
    assert drawn()[0] == Pair(*FIRST)


FIRST = ("general-train-0", "the tegi from the pito vata the tiho.", "ot knaachoe ek ot stuudraa ot grietrie treijie.")


@pytest.mark.parametrize("domain", ["law", "medicine"])
def test_pairs__translate_a_word_in_one_way_within_a_domain(domain: str) -> None:
    known = dictionary(drawn(domain))
    assert len(known) > 0.6 * WORDS
    assert {len(translations) for translations in known.values()} == {1}


def test_pairs__of_other_domains_translate_more_than_half_of_the_words_otherwise() -> None:
    law, medicine = (dictionary(drawn(domain)) for domain in ("law", "medicine"))
    shared = law.keys() & medicine.keys()
    assert 0.6 < sum(law[word] != medicine[word] for word in shared) / len(shared) < 0.95


def test_pairs__of_the_general_domain_know_the_translations_of_the_others() -> None:
    general, law = dictionary(drawn(sentences=12000)), dictionary(drawn("law"))
    assert 1.5 < sum(map(len, general.values())) / len(general) < 3
    shared = general.keys() & law.keys()
    assert sum(law[word] <= general[word] for word in shared) > 0.9 * len(shared)


def test_pairs__of_a_domain_have_frequent_words_of_their_own() -> None:
    frequent = {}
    for domain in ("general", "law"):
        counts = Counter(word for pair in drawn(domain) for word in pair.source.strip(".").split())
        frequent[domain] = {word for word, _ in counts.most_common(30)}
    assert len(frequent["general"] & frequent["law"]) < 15


def test_pairs__of_the_test_split_were_not_trained_on() -> None:
    trained = {pair.source for pair in drawn()}
    assert sum(pair.source in trained for pair in drawn(split="test", sentences=300)) < 6
