"""When a prediction is right, and when a passage holds an answer: the one definition of each.

Exact match is that of the released ORQA and REALM evaluation (google-research/language, orqa/utils/eval_utils.py):
SQuAD's normalisation after NFD, and regular expressions that must match from the start of the prediction. Answer in
passage is that of DPR (facebookresearch/DPR, dpr/data/qa_validation.py): a run of whole tokens, or a regular expression
found anywhere. Neither drops accents: "Café" equals itself in either Unicode form, never "Cafe".
"""

import functools
import re
import string
import unicodedata
from collections.abc import Iterable
from typing import Literal

from rlm.answer_patterns import Pattern, usable_patterns
from rlm.errors import quoted

AnswerKind = Literal["string", "regex"]

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(answer: str) -> str:
    """The form in which string answers are compared (SQuAD v1.1's, after NFD).

    In this order: decompose to NFD, lower-case, delete ASCII punctuation, turn the words a, an and the into spaces,
    join what is left by single spaces. Other punctuation (“ ” – …) stays, as in the released evaluation.
    """
    text = unicodedata.normalize("NFD", answer).lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, answers: Iterable[str], kind: AnswerKind) -> bool:
    """Whether `prediction` equals one of `answers` ("string"), or one of them matches it from its start ("regex").

    Strings are compared as `normalize_answer` leaves them, so an empty prediction equals an answer of punctuation only.
    Regular expressions see the prediction as it is, with IGNORECASE, UNICODE and MULTILINE, and need not match its end;
    one that is invalid, or takes too long, matches nothing and is reported once by a warning.

    Raises ValueError for an unknown kind, and where no answer is given.
    """
    answers = _given(answers)
    if _is_regex(kind):
        return any(pattern.matches(prediction) for pattern in usable_patterns(answers))
    normalized = normalize_answer(prediction)
    return any(normalize_answer(answer) == normalized for answer in answers)


def has_answer(text: str, answers: Iterable[str], kind: AnswerKind) -> bool:
    """`AnswerMatcher(answers, kind).matches(text)`, for one passage; keep the matcher where there are several."""
    return AnswerMatcher(answers, kind).matches(text)


class AnswerMatcher:
    """Tells which passages hold one of a question's answers (DPR's `has_answer`).

    A string answer is held where its tokens follow each other, whatever their case: "Lee" is in "lee's" but not in
    "leeds". A regular expression is held where a search finds it. Texts and answers are brought to NFD first. Unlike in
    DPR, an answer without tokens, such as "", is in no passage rather than in every one, and an escaped accented letter
    (two of CuratedTREC's patterns) stays valid in NFD.

    Raises ValueError for an unknown kind, and where no answer is given.
    """

    def __init__(self, answers: Iterable[str], kind: AnswerKind) -> None:
        answers = _given(answers)
        self._patterns: list[Pattern] | None = None
        if _is_regex(kind):
            # Compiled as written first: that is the form in which an invalid one is reported.
            self._patterns = usable_patterns(_decomposed(pattern.text) for pattern in usable_patterns(answers))
        else:
            self._tokens = {tokens for tokens in map(_spaced_tokens, answers) if tokens.strip()}

    def matches(self, text: str) -> bool:
        """Whether the passage `text` holds an answer."""
        if self._patterns is not None:
            decomposed = unicodedata.normalize("NFD", text)
            return any(pattern.is_in(decomposed) for pattern in self._patterns)
        passage = _spaced_tokens(text)
        return any(tokens in passage for tokens in self._tokens)


def _given(answers: Iterable[str]) -> list[str]:
    if isinstance(answers, str) or not (given := list(answers)):
        raise ValueError(f"answers: found {quoted(answers)}; give a list of at least one accepted answer")
    return given


def _is_regex(kind: str) -> bool:
    if kind not in ("string", "regex"):
        raise ValueError(f"answer kind `{kind}` is unknown: write `string` or `regex`")
    return kind == "regex"


def _decomposed(pattern: str) -> str:
    """A regular expression in NFD, without backslashes before non-ASCII letters: NFD would turn `\\ě` into `\\e`."""
    return unicodedata.normalize("NFD", re.sub(r"(\\[\x00-\x7f])|\\(?=[^\x00-\x7f])", r"\1", pattern))


class _TokenSpacing(dict[int, str]):
    """Spaces that set apart the tokens of DPR's SimpleTokenizer, for `str.translate`; filled as characters are met.

    A token is a run of letters, numbers and marks ([\\p{L}\\p{N}\\p{M}]+), or any other character that is neither a
    separator nor a control ([^\\p{Z}\\p{C}]). The standard library's expressions know no such classes.
    """

    def __missing__(self, codepoint: int) -> str:
        character = chr(codepoint)
        category = unicodedata.category(character)[0]
        spaced = character if category in "LNM" else " " if category in "ZC" else f" {character} "
        self[codepoint] = spaced
        return spaced


_TOKEN_SPACING = _TokenSpacing()


# About 700 bytes a passage: questions on one subject retrieve the same ones.
@functools.lru_cache(maxsize=16384)
def _spaced_tokens(text: str) -> str:
    """The lower-cased tokens of `text`, each between spaces, so that a run of whole tokens is a substring."""
    tokens = unicodedata.normalize("NFD", text).translate(_TOKEN_SPACING).split()
    return f" {' '.join(tokens)} ".lower()
