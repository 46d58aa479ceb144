"""Salient spans (REALM, section 3.4): named entities and dates, in word pieces of the sentences that hold them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from rlm.data.tokens import Ragged


class CharSpan(NamedTuple):
    """Characters `start` to `end` (exclusive) of a sentence."""

    start: int
    end: int
    label: str


class Tagger(Protocol):
    """Finds entities; dates are found beside every tagger (`find_dates`)."""

    def __call__(self, passages: Sequence[Sequence[str]]) -> list[list[CharSpan]]:
        """Spans of each sentence of the passages, all sentences in one list."""


_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
)
_DAY = r"(?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th)?(?:\s?[-–]\s?(?:3[01]|[12]\d|0?[1-9]))?"
_YEAR = r"(?:1\d{3}|20\d\d)"
_ERA = r"(?:BCE?|AD|CE|B\.C\.|A\.D\.)"
_DATE = re.compile(
    rf"""(?<![\w$€£#.,])(?:
      {_YEAR}-[01]\d-[0-3]\d                                        # 2008-05-12
    | {_DAY}\s(?:of\s)?{_MONTH}(?:,?\s{_YEAR})?                     # 12 May 2008, 12th of May
    | {_MONTH}\s{_DAY}(?:,?\s{_YEAR})?                              # May 12, 2008
    | {_MONTH},?\s{_YEAR}s?                                         # May 2008
    | \d{{1,4}}\s{_ERA}                                             # 44 BC
    | \d{{1,2}}(?:st|nd|rd|th)[\s-](?:century|centuries)            # 19th century
    | {_YEAR}s?                                                     # 1998, 1990s
    | (?:January|February|April|June|July|August|September|October|November|December)
    )(?![\w%]|[.,]\d)""",
    re.VERBOSE,
)


def find_dates(text: str) -> list[CharSpan]:
    """Dates, years from 1000 to 2099, decades, centuries and months, by regular expression."""
    return [CharSpan(*match.span(), "DATE") for match in _DATE.finditer(text)]


_UPPER = "".join(char for char in map(chr, range(0x530)) if char.isupper())  # Latin, Greek, Cyrillic, Armenian
_INITIALS = rf"(?:[{_UPPER}]\.){{2,}}|[{_UPPER}]\.(?=\s?[{_UPPER}])|(?:Dr|Ft|Jr|Lt|Mr|Mrs|Mt|Prof|Sr|St)\.(?=\s)"
_WORD = rf"(?:{_INITIALS}|[{_UPPER}]\w*(?:[-–&]\w+|['’](?!s\b)\w+)*)"
_INNER = (
    r"(?:(?:al|and\sthe|bin|da|de|del|della|den|der|des|di|do|dos|du|el|ibn|la|las|le|los|of|the|van|von|y|zu|&)\s)"
)
_RUN = re.compile(rf"(?<![\w.]){_WORD}(?:\s?{_WORD}|\s{_INNER}{{1,2}}{_WORD})*(?:[\s-]\d{{1,3}}(?![\w%]|[.,]\d))?")
_COMMON_OF = re.compile(r"\S+\sof\s(?:the\s)?")
_LETTER = re.compile(r"\w")
_FUNCTION_WORDS = """
    a about above according across after again against all along already also although am among an and another
    any are around as at because been before behind being below beneath beside besides between beyond both but
    by can could despite did do does down during each either even every few finally first following for
    formerly four from further had has have he her here hers his how however i if in including initially
    inside instead into is it its itself last later like many may me meanwhile might more moreover most much
    must my near nearly neither never nevertheless next no none nor not nothing now of off often on once one
    only onto or originally other others our out outside over per perhaps recently second several shall she
    should similarly since so some sometimes soon still such than that the their them then there therefore
    these they this those three through throughout thus to today together too toward towards two under unlike
    until unto up upon us usually via was we were what when where whereas whether which while who whom whose
    why will with within without would yet you your
"""
_NO_NAMES = frozenset(_FUNCTION_WORDS.split())


def tag_capitalised(passages: Sequence[Sequence[str]]) -> list[list[CharSpan]]:
    """Runs of capitalised words, with inner `of`, `the`, `von`, ..., initials, and a number after them.

    Function words at a run's start are left out. The first word of a sentence may be a common one where it stands
    alone, or before `of` ("Friends of Ada Lovelace"): then it counts only where it has a second capital letter, or its
    passage has it capitalised inside a sentence too.
    """
    return [spans for sentences in passages for spans in _capitalised(sentences)]


def _capitalised(sentences: Sequence[str]) -> list[list[CharSpan]]:
    found: list[list[tuple[str | None, int, int, int]]] = []  # doubtful word; start with and without it, end
    seen_inside: set[str] = set()
    for sentence in sentences:
        found.append([])
        for match in _RUN.finditer(sentence):
            start, words = match.start(), match.group().split()
            begins = not found[-1] and not _LETTER.search(sentence, 0, start)
            while words and words[0].lower() in _NO_NAMES:
                begins = False
                start += len(words.pop(0)) + 1
            if not words or words[0].isdigit():  # a number stays where a function word went
                continue
            seen_inside.update(words[begins:])
            doubtful, rest = None, start
            if begins and words[0][1:].islower():
                if len(words) == 1:
                    doubtful, rest = words[0], match.end()
                elif words[1] == "of":
                    doubtful, rest = words[0], _COMMON_OF.match(sentence, start).end()  # type: ignore[union-attr]
            found[-1].append((doubtful, start, rest, match.end()))
    tagged = []
    for runs in found:
        starts = [rest if word and word not in seen_inside else start for word, start, rest, _ in runs]
        ends = [end for *_, end in runs]
        tagged.append([CharSpan(a, b, "PHRASE") for a, b in zip(starts, ends, strict=True) if a < b])
    return tagged


def without_overlaps(spans: Iterable[CharSpan]) -> list[CharSpan]:
    """The longest of overlapping spans (the first of equally long ones), in order of their starts."""
    kept: list[CharSpan] = []
    for span in sorted(spans, key=lambda span: (span.start - span.end, span.start)):
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    return sorted(kept)


@dataclass(frozen=True, slots=True)
class SalientSpanTable:
    """The sentences with at least one salient span: row i of `starts` and `ends` are the spans of `sentences[i]`."""

    sentences: NDArray[np.int64]  # [sentences, 3]: passage, start, end in word pieces of the body
    starts: Ragged  # word pieces from the sentence's start
    ends: Ragged  # the same, exclusive
    labels: Ragged | None = None  # position in the labels of report.json

    def __len__(self) -> int:
        return len(self.sentences)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Memory-map a `salient_spans` stage's folder.

        Raises:
            ValueError: its arrays disagree (a damaged or truncated file).
        """
        sentences = np.load(folder / "sentences.npy", mmap_mode="r").reshape(-1, 3)
        starts, ends, labels = (Ragged.open(folder, name) for name in ("starts", "ends", "labels"))
        if not len(sentences) == len(starts) == len(ends) == len(labels):
            rows = f"{len(sentences)} sentences, {len(starts)} starts, {len(ends)} ends, {len(labels)} labels"
            raise ValueError(f"{folder}: damaged ({rows}); delete the folder")
        return cls(sentences, starts, ends, labels)


def align(spans: Sequence[Sequence[CharSpan]], starts: Ragged, ends: Ragged) -> NDArray[np.int64]:
    """Word pieces that lie wholly inside each span, as REALM masks them; spans without any are left out.

    Args:
        spans: of each sentence, in characters.
        starts: first character of each word piece of each sentence.
        ends: the same, exclusive.

    Returns:
        [spans, 4]: sentence, first word piece, last (exclusive), position of the span among all.
    """
    sentence = np.repeat(np.arange(len(spans)), [len(found) for found in spans])
    first_char, last_char = np.array([span[:2] for found in spans for span in found], np.int64).reshape(-1, 2).T
    # One axis of characters for all sentences: each begins where no span or piece of another one reaches.
    base = np.arange(len(spans)) * (1 + max(ends.values.max(initial=0), last_char.max(initial=0)))
    all_starts = starts.values + np.repeat(base, starts.lengths)
    all_ends = ends.values + np.repeat(base, ends.lengths)
    first = np.searchsorted(all_starts, first_char + base[sentence], side="left") - starts.offsets[sentence]
    last = np.searchsorted(all_ends, last_char + base[sentence], side="right") - starts.offsets[sentence]
    aligned = np.stack([sentence, first, last, np.arange(len(sentence))], axis=1)
    return aligned[first < last]
