import collections
import json
import random
import re
import string
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import pytest
import regex

from rlm.metrics.answers import AnswerMatcher, exact_match, has_answer, normalize_answer

# Letters in both cases, articles, ASCII and other punctuation, accents in either form, other scripts, a final sigma,
# a dotted capital I, numerals, separators and controls, an astral letter, an emoji with a joiner, an unassigned point.
PIECES = [
    *"abtheA TZ019_",
    *["the", "The", "an", "a", "tea", "lee", "Leeds", " ", " ", " ", "\t", "\n", "\u00a0", "\u2003", "\x1c", "\x85"],
    *".,!?'\"-()$“”’–…¿·",
    *["é", "e\u0301", "Å", "ß", "İ", "ΑΣ", "Σ", "я", "東京", "한", "ก็", "²", "½", "Ⅷ", "٣"],
    *["\u200b", "\ufeff", "\ue000", "\u0378", "𝔸", "😀", "👩\u200d🚀", "\ud800"],
]


def random_text(generator: random.Random, longest: int) -> str:
    return "".join(generator.choices(PIECES, k=generator.randrange(longest)))


def squad_normalized(text: str) -> str:
    """What evaluate-v1.1.py does, step by step; ORQA's evaluation decomposes to NFD before it."""
    text = unicodedata.normalize("NFD", text)
    text = text.lower()
    text = "".join(character for character in text if character not in set(string.punctuation))
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


DPR_TOKEN = regex.compile(r"([\p{L}\p{N}\p{M}]+)|([^\p{Z}\p{C}])", regex.IGNORECASE | regex.UNICODE | regex.MULTILINE)


def dpr_tokens(text: str) -> list[str]:
    return [match.group().lower() for match in DPR_TOKEN.finditer(unicodedata.normalize("NFD", text))]


def dpr_has_answer(text: str, answers: list[str]) -> bool:
    passage = dpr_tokens(text)
    for answer in map(dpr_tokens, answers):
        if any(passage[start : start + len(answer)] == answer for start in range(len(passage) - len(answer) + 1)):
            return True
    return False


def test_normalize_answer__equals_squads_after_nfd_on_random_strings():
    generator = random.Random(0)
    for _ in range(20_000):
        text = random_text(generator, 12)
        assert normalize_answer(text) == squad_normalized(text), repr(text)


@pytest.mark.parametrize(
    ("answer", "normalized"),
    [
        ("The Beatles!", "beatles"),
        ("  a  Tale\tof the\nTwo Cities ", "tale of two cities"),
        ("U.S.A.", "usa"),
        ("anthem", "anthem"),  # an article is a whole word
        ("The-rapist", "therapist"),  # punctuation goes before articles do
        ("$1,000", "1000"),
        ("“Help”", "“help”"),  # punctuation outside ASCII stays
        ("Café", "cafe\u0301"),
        ("The", ""),
        ("?!", ""),
        ("", ""),
    ],
)
def test_normalize_answer__takes_away_case_punctuation_articles_and_spaces(answer, normalized):
    assert normalize_answer(answer) == normalized


@pytest.mark.parametrize(
    ("prediction", "answers", "right"),
    [
        ("the beatles", ("Wings", "The Beatles!"), True),
        ("beatle", ("The Beatles",), False),
        ("Cafe\u0301", ("Café",), True),
        ("Cafe", ("Café",), False),
        ("", ("Paris",), False),
        ("", ("...",), True),  # both are empty once normalised, as in the official script
        ("?", ("!",), True),
        ("Paris", ("!",), False),
        ("1.", (r"\d.",), False),
    ],
)
def test_exact_match__compares_normalized_strings_with_every_answer(prediction, answers, right):
    assert exact_match(prediction, answers, "string") is right


@pytest.mark.parametrize(
    ("prediction", "pattern", "right"),
    [
        ("1,000 feet", r"1,000", True),
        ("about 1,000 feet", r"1,000", False),  # match, not search
        ("PARIS, France", r"paris", True),
        ("ÉCLAIR", r"é\w+$", True),  # case of letters outside ASCII
        ("the 1960s", r"1960s", False),  # the prediction is not normalised
        ("1999\nor so", r"\d+$", True),  # MULTILINE: $ before a line break,
        ("about\n1999", r"^1999", False),  # but match still starts where the prediction does
        ("", r"Paris", False),
        ("", r"(Paris)?", True),
        ("É", "E\u0301", False),  # nor decomposed
    ],
)
def test_exact_match__matches_patterns_from_the_start_of_the_raw_prediction(prediction, pattern, right):
    assert exact_match(prediction, ("no such thing", pattern), "regex") is right


@pytest.mark.parametrize("pattern", ["(unclosed", "a**", "x{99999999999}", "(é"])
def test_invalid_pattern__matches_nothing_and_is_reported_once(pattern):
    with pytest.warns(UserWarning, match="answer pattern") as caught:
        for _ in range(3):
            assert not exact_match("(unclosed a**", (pattern,), "regex")
            assert not has_answer("(unclosed a**", (pattern,), "regex")
        assert has_answer("it was Paris", (pattern, "paris"), "regex")
    assert len(caught) == 1
    assert pattern in str(caught[0].message)


def test_unknown_kind__raises_with_the_known_ones():
    for call in (lambda: exact_match("a", ("a",), "regexp"), lambda: AnswerMatcher(("a",), "regexp")):
        with pytest.raises(ValueError, match="`regexp` is unknown: write `string` or `regex`"):
            call()


def test_answer_matcher__equals_dprs_has_answer_on_random_strings():
    generator = random.Random(0)
    outcomes = collections.Counter()
    for _ in range(20_000):
        text = random_text(generator, 30)
        start = generator.randrange(len(text) + 1)
        # Half of the answers are cut from the text, half are not.
        cut = text[start : start + generator.randrange(1, 6)]
        answer = generator.choice([cut, cut.swapcase(), random_text(generator, 4), random_text(generator, 4)])
        if not dpr_tokens(answer):
            continue
        held = AnswerMatcher(("zzz", answer), "string").matches(text)
        assert held == dpr_has_answer(text, ["zzz", answer]), (text, answer)
        outcomes[held] += 1
    assert min(outcomes[True], outcomes[False]) > 2_000


@pytest.mark.parametrize(
    ("text", "answers", "held"),
    [
        ("Spike Lee's film", ("lee",), True),
        ("He lives in Leeds.", ("Lee",), False),
        ("made in the U.S. in 1999", ("U.S.",), True),
        ("the 1960s and 1970s", ("1960",), False),
        ("in New\n  York City", ("new york",), True),
        ("in New, York", ("New York",), False),
        ("a Cafe\u0301 in Lyon", ("Café",), True),
        ("a Cafe in Lyon", ("Café",), False),
        ("Really!", ("!",), True),
        ("Really", ("!",), False),
        ("", ("Paris",), False),
        ("Paris", ("", " ", "\u200b"), False),  # no token: in no passage, where DPR says in every one
        ("", ("",), False),
    ],
)
def test_has_answer__finds_runs_of_whole_tokens(text, answers, held):
    assert has_answer(text, answers, "string") is held


@pytest.mark.parametrize(
    ("text", "pattern", "held"),
    [
        ("it is about 1,000 FEET tall", r"1,?000\s*feet", True),
        ("it is 100 feet tall", r"1,?000\s*feet", False),
        ("first line\nParis is next", r"^paris", True),  # MULTILINE
        ("a Café", "Cafe\u0301$", True),
        ("a Cafe\u0301", "Café", True),
        ("on Sněžka", r"Sn\ě\žka", True),  # an escaped letter is that letter
        (r"C:\é", r"C:\\é", True),  # an escaped backslash stays one
    ],
)
def test_has_answer__searches_for_patterns_anywhere(text, pattern, held):
    assert has_answer(text, (pattern,), "regex") is held


def test_answers__import_without_heavy_libraries():
    code = "import sys, rlm.metrics.answers; sys.exit(bool({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.data
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_curated_trec_patterns__compile_without_a_warning(data_folder: Path, split: str):
    lines = (data_folder / "qa" / f"curated_trec.{split}.jsonl").read_text().splitlines()
    questions = [json.loads(line) for line in lines]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for question in questions:
            AnswerMatcher(question["answers"], "regex")
            exact_match("", question["answers"], "regex")
    assert len(questions) > 100


@pytest.mark.parametrize("kind", ["string", "regex"])
@pytest.mark.parametrize("answers", [[], (), iter([]), {}, "Paris"])
def test_no_answer__is_an_error_and_not_a_zero(answers, kind):
    for call in (lambda: exact_match("Paris", answers, kind), lambda: AnswerMatcher(answers, kind)):
        with pytest.raises(ValueError, match="answers: found .*; give a list of at least one accepted answer"):
            call()


def test_answers__may_be_given_by_an_iterator():
    assert exact_match("Paris", iter(["Rome", "paris"]), "string")
    assert exact_match("Paris", iter(["Rome", "p"]), "regex")
    assert has_answer("in Paris", iter(["Rome", "paris"]), "string")


def test_pattern_that_never_ends__matches_nothing_and_the_others_are_scored():
    prediction = "a" * 60 + "!"
    with pytest.warns(UserWarning, match="ran for more than 1 s") as caught:
        for _ in range(50):
            assert not exact_match(prediction, ("(a+)+$", "b"), "regex")
            assert exact_match(prediction, ("(a+)+$", "a"), "regex")
            assert not has_answer(prediction, ("(a*)*c", "b"), "regex")
    assert len(caught) == 2


def test_blank_pattern__is_one():
    assert exact_match("anything", ("",), "regex") and not exact_match("anything", (" ",), "regex")


def test_patterns__are_scored_as_the_released_evaluation_does():
    """orqa/utils/eval_utils.py's `_regex_match_score`, over patterns of which many are none."""

    def released(prediction, pattern):
        try:
            return re.compile(pattern, flags=re.IGNORECASE + re.UNICODE + re.MULTILINE).match(prediction) is not None
        except re.error:
            return False

    generator = random.Random(0)
    outcomes = collections.Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3000):
            patterns = ["".join(generator.choices("ab()[]*+?|.\\^$ \n", k=generator.randrange(6))) for _ in range(2)]
            prediction = "".join(generator.choices("abAB \n", k=generator.randrange(6)))
            expected = max(released(prediction, pattern) for pattern in patterns)
            assert exact_match(prediction, patterns, "regex") == expected, (prediction, patterns)
            outcomes[expected] += 1
    assert min(outcomes.values()) > 300
