"""Occurrences of answers against sliding windows over word pieces, and against `re.finditer` over texts."""

import pickle
import re

import numpy as np
import pytest

from rlm.data.config import CorpusConfig
from rlm.data.corpus import Corpus, write_corpus
from rlm.data.gold import GoldAnswers, question_tokens
from rlm.data.qa import Question
from rlm.data.sources import Passage
from tests.worlds import SOURCE

LIMIT = 20


def pieces(corpus, text):
    return corpus.tokenizer.tokenize(text)


def windows(corpus, question, passage):
    """Where the word pieces of an answer stand in those of a passage's text, by comparing every window."""
    body = pieces(corpus, corpus.passage(passage).text)
    runs = [pieces(corpus, answer) for answer in question.answers]
    return {(i, i + len(run)) for run in runs if run for i in range(len(body)) if body[i : i + len(run)] == run}


def matches(corpus, question, passage):
    """Word pieces that share a character with a match of a pattern."""
    text = corpus.passage(passage).text
    offsets = corpus.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    found = set()
    for answer in question.answers:
        for match in re.finditer(answer, text, re.IGNORECASE | re.MULTILINE):
            touched = [i for i, (a, b) in enumerate(offsets) if a < match.end() and b > match.start()]
            if touched and match.group():
                found.add((touched[0], touched[-1] + 1))
    return found


def compare(corpus, questions, reference):
    """All questions beside all passages; returns how many occurrences there are."""
    gold = GoldAnswers(corpus, questions)
    passages = np.tile(np.random.default_rng(0).permutation(len(corpus)), (len(questions), 1))
    expected = {
        (i, j, *span)
        for i, question in enumerate(questions)
        for j, passage in enumerate(passages[i])
        for span in reference(corpus, question, int(passage))
    }
    rows = np.arange(len(questions))
    contained = gold.contained(rows, passages)
    assert {(i, j) for i, j, *_ in expected} == set(zip(*np.nonzero(contained), strict=True))
    for limit in (LIMIT, 1000):
        found = list(zip(*(column.tolist() for column in gold.occurrences(rows, passages, limit)), strict=True))
        assert len(found) == len(set(found))
        assert set(found) == {span for span in expected if span[3] <= limit}
    return expected


def test_strings__are_found_wherever_their_word_pieces_are(world):
    found = compare(world.corpus, world.questions[:12], windows)
    assert {question for question, *_ in found} == set(range(12)), "every question of the encyclopedia has an answer"
    assert any(end > LIMIT for *_, end in found), "none lies beyond the limit"


def test_strings__of_several_answers_of_unequal_lengths(world):
    text = world.corpus.passage(3).text
    answers = (text, text.split()[0], "was", "was", "", "nowhere at all to be found")
    assert compare(world.corpus, [Question("0", "?", answers, "string")], windows)


def test_strings__never_run_from_one_passage_into_the_next(world):
    ends, begins = (world.corpus.passage(row).text.split() for row in (5, 6))
    assert not compare(world.corpus, [Question("0", "?", (f"{ends[-1]} {begins[0]}",), "string")], windows)


def test_strings__of_unknown_letters_are_nowhere(world, tmp_path):
    """The word piece [UNK] stands for any of them; it says nothing of what was written."""
    passages = [Passage("0", "", "She was born in 東 京.")]
    write_corpus(tmp_path, passages, world.corpus.tokenizer, CorpusConfig(source=SOURCE))
    gold = GoldAnswers(Corpus.open(tmp_path), [Question("0", "?", ("北", "in 北"), "string")])
    assert not gold.contained(np.array([0]), np.array([[0]])).any()


@pytest.mark.parametrize(
    "answers",
    [
        (r"\b17\d\d\b",),
        ("LAIPEBERT|Mills",),
        (r"\w+ Mills", r"in \w"),
        (r"\b",),
        (r"^\w+",),
        (r"\.", "ert"),
        ("no match",),
        (r"bert\b ",),
    ],
)
def test_regexes__are_found_where_finditer_finds_them(answers, world):
    found = compare(world.corpus, [Question("0", "?", answers, "regex")], matches)
    assert bool(found) == (answers not in [("no match",), (r"\b",)])


def test_invalid_regex__matches_nothing_and_is_reported_once(world):
    valid, broken = r"17\d\d", "(unclosed of gold"
    with pytest.warns(UserWarning, match=r"\(unclosed of gold.* matches nothing") as caught:
        questions = [Question("0", "?", (broken, valid), "regex"), Question("1", "?", (broken,), "regex")]
        gold = GoldAnswers(world.corpus, questions)
        passages = np.tile(np.arange(len(world.corpus)), (2, 1))
        contained = gold.contained(np.arange(2), passages)
    assert len(caught) == 1
    assert contained[0].any() and not contained[1].any()


def test_gold_answers__survive_pickling(world):
    """Processes that are spawned, one a GPU, are given them so."""
    questions = [world.questions[0], Question("1", "?", (r"17\d\d",), "regex")]
    gold, passages = GoldAnswers(world.corpus, questions), np.tile(np.arange(len(world.corpus)), (2, 1))
    expected = gold.contained(np.arange(2), passages)
    assert expected.any(axis=1).all()
    assert np.array_equal(pickle.loads(pickle.dumps(gold)).contained(np.arange(2), passages), expected)


def test_question_tokens__have_no_special_tokens(world):
    rows = question_tokens(world.corpus, world.questions)
    for row, question in enumerate(world.questions):
        assert world.corpus.tokenizer.convert_ids_to_tokens(rows[row]) == pieces(world.corpus, question.question)
