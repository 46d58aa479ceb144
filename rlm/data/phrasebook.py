"""Two generated languages and sentences in them, in domains that translate the same word differently.

A domain draws its words by Zipf's law in an order of its own, so that its frequent words are rare elsewhere. Word order
differs between the languages: the source has verb before object and adjective before noun, the target has neither.
"""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple, get_args

from rlm.data.parallel_config import Domain, PhrasebookSource

DOMAINS: tuple[str, ...] = get_args(Domain)
SKEW = 2.0
"""Words are drawn at the rank floor(words * u ** SKEW), u uniform."""
OWN_SENSE = 0.6
"""Share of words that a domain other than the general one translates by a word of its own."""
BORROWED = 0.15
"""Share of words that general text means as another domain does, so that a model of it knows all translations."""
_SOURCE = "b d f g h k l m n p r s t v w".split(), "a e i o u".split()
_TARGET = "bl ch dr fl gr j kn pr sch sp st tr z".split(), "aa ei ie oe uu".split()
_KINDS = "noun verb adjective".split()
_TEMPLATES = (
    ("the {0} {1} the {2}", "ot {0} ot {2} {1}", "noun verb noun"),
    ("the {0} {1} {2} a {3}", "ot {1} {0} un {3} {2}", "adjective noun verb noun"),
    ("a {0} {1} the {2} {3}", "un {0} ot {3} {2} {1}", "noun verb adjective noun"),
    ("the {0} {1} a {2} with the {3}", "ot {0} mid ot {3} un {2} {1}", "noun verb noun noun"),
    ("the {0} from the {1} {2} the {3}", "ot {0} ek ot {1} ot {3} {2}", "noun noun verb noun"),
    ("under the {0} the {1} {2} a {3} {4}", "ot {1} {2} un {4} {3} sot ot {0}", "noun noun verb adjective noun"),
)


class Pair(NamedTuple):
    """A sentence and its translation."""

    id: str
    source: str
    target: str


def pairs(source: PhrasebookSource) -> Iterator[Pair]:
    """The sentences of a domain's split, in a fixed order; splits share none by more than chance."""
    for number in range(source.sentences):
        draw = Random(f"{source.world_seed} {source.domain} {source.split} {number}")
        template, translated, kinds = _TEMPLATES[int(draw.random() * len(_TEMPLATES))]
        words = [_word(source, kind, draw) for kind in kinds.split()]
        told = (form.format(*each) for form, each in zip((template, translated), zip(*words, strict=True), strict=True))
        yield Pair(f"{source.domain}-{source.split}-{number}", *(f"{text}." for text in told))


def _word(source: PhrasebookSource, kind: str, draw: Random) -> tuple[str, str]:
    """A word in both languages."""
    count = source.words // len(_KINDS)
    domain = DOMAINS.index(source.domain)
    number = (int(count * draw.random() ** SKEW) + domain * count // len(DOMAINS)) % count
    place = number * len(_KINDS) + _KINDS.index(kind)
    if not domain and draw.random() < BORROWED:
        domain = 1 + int(draw.random() * (len(DOMAINS) - 1))
    own = domain and Random(f"{source.world_seed} {place} {domain}").random() < OWN_SENSE
    sense = domain if own else 0
    return _spell(place, _SOURCE), _spell(place * len(DOMAINS) + sense, _TARGET)


def _spell(number: int, sounds: tuple[list[str], list[str]]) -> str:
    """A pronounceable word of two syllables or more, another for every number."""
    onsets, vowels = sounds
    base = len(onsets) * len(vowels)
    volume, place = divmod(number, base**2)
    syllables: list[str] = []
    number = volume * base**2 + place * 1_009 % base**2  # neighbours should not look alike
    while number or len(syllables) < 2:
        number, rest = divmod(number, base)
        syllables.append(onsets[rest % len(onsets)] + vowels[rest // len(onsets)])
    return "".join(syllables)
