"""A generated world: an encyclopedia, the news that retells it in other words, and questions about it.

Every fact is a pure function of the world's seed and a number, so that ten million passages can be streamed without
holding any. What makes retrieval hard is content: several passages per entity, each about other relations; names that
stand in many passages as objects; families that share a surname, companies and plays that share words; short forms of
names in the news and the questions; and relations that the news and the questions word differently from the passages.
"""

import re
from collections.abc import Iterator

from rlm.data.config import EncyclopediaSource
from rlm.data.qa import Question
from rlm.data.relations import RELATIONS, Relation
from rlm.data.sources import Passage

SHARES = {"person": 8, "town": 4, "company": 4, "work": 4}
"""Of twenty consecutive entities, how many are of each kind."""
RELATIONS_PER_PASSAGE = 2
FAMILY = 8
"""Persons who share a surname."""
NEWS_PER_ARTICLE = 4
SPLITS = {"train": (0, 6), "dev": (6, 8), "test": (8, 10)}
"""Which of 40 equal shares of the facts are asked for in each split; the rest is never asked for."""
SHARES_OF_FACTS = 40
SECOND_EDITION = 10
"""The second edition changes one fact in so many."""

_CYCLE = sum(SHARES.values())
_FIRST = dict(zip(SHARES, (sum(list(SHARES.values())[:i]) for i in range(len(SHARES))), strict=True))
_ONSETS = "b br d dr f fl g gr h k kl l m n p r s st t v".split()
_VOWELS = "a e i o u ai ea".split()
_SURNAME_ENDS = "bert dal gan lock mond ner rick son tall vik".split()
_TOWN_ENDS = "bury dale ford ham holm mere port stead wick worth".split()
_TOWN_FORMS = "Cross Heath Quay Vale".split()
_COMPANY_ENDS = "Brewery Foundry Mills Works".split()
_GIVEN = (
    "Ada Abel Bela Boris Clara Cyrus Dora Dennis Elsa Emil Freya Felix Greta Gideon Hilda Hugo Ines Isaac Julia Jonas "
    "Karin Kaspar Lena Leo Maud Milo Nora Noel Olga Otto Petra Paul Rosa Rufus Selma Silas Tilda Tobias Vera Victor"
).split()  # two of each initial, she and he in turn
_ADJECTIVES = (
    "Amber Bitter Broken Crimson Distant Empty Endless Fading Gilded Golden Hidden Hollow Humble Idle Ivory Jagged "
    "Lonely Marble Midnight Narrow Painted Patient Quiet Restless Rusted Sacred Scarlet Secret Silent Silver Sleeping "
    "Solemn Stolen Sunken Tangled Velvet Wandering Weary Winding Wooden"
).split()
_NOUNS = (
    "Anchor Bell Bridge Candle Castle Chapel Clock Compass Crown Dagger Feather Fountain Garden Harbour Harvest Key "
    "Lantern Letter Lighthouse Mirror Mountain Orchard Portrait River Shadow Throne Tower Valley Violin Voyage"
).split()
_MONTHS = "January February March April May June July August September October November December".split()
_MASK = (1 << 64) - 1


def _pick(count: int, *keys: int) -> int:
    """A number below `count`, drawn by SplitMix64 from the keys."""
    x = 0
    for key in keys:
        x = (x + key * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        x ^= x >> 31
    return x % count


def _stem(number: int) -> str:
    """A pronounceable beginning of a name; numbers below 140 squared give two syllables, others more."""
    syllables: list[str] = []
    base = len(_ONSETS) * len(_VOWELS)
    number = number * 8_117 + 4_871  # neighbours should not look alike
    while number or len(syllables) < 2:
        number, rest = divmod(number, base)
        syllables.append(_ONSETS[rest % len(_ONSETS)] + _VOWELS[rest // len(_ONSETS)])
    return "".join(syllables)


class World:
    """Names and facts of the entities.

    Args:
        source: size, seed and edition.
    """

    def __init__(self, source: EncyclopediaSource) -> None:
        self.entities, self.seed = source.entities, source.world_seed
        self.second = source.edition == "second"
        whole, rest = divmod(source.entities, _CYCLE)
        self._count = {kind: whole * SHARES[kind] + min(max(rest - _FIRST[kind], 0), SHARES[kind]) for kind in SHARES}

    def kind(self, entity: int) -> tuple[str, int]:
        """Kind of an entity, and its number among those of its kind."""
        cycle, place = divmod(entity, _CYCLE)
        kind = next(kind for kind in reversed(SHARES) if place >= _FIRST[kind])
        return kind, cycle * SHARES[kind] + place - _FIRST[kind]

    def name(self, kind: str, number: int) -> str:
        """Full name, unique within its kind."""
        salt = self.seed * 1_000
        if kind == "person":
            family, member = divmod(number, FAMILY)
            given = _GIVEN[2 * ((_pick(20, self.seed, family) + member) % 20) + _pick(2, self.seed, number)]
            ending = _SURNAME_ENDS[family % len(_SURNAME_ENDS)]
            return f"{given} {_stem(family // len(_SURNAME_ENDS) * 7 + salt).capitalize()}{ending}"
        if kind == "town":
            place, form = divmod(number, len(_TOWN_FORMS))
            stem = _stem(place // len(_TOWN_ENDS) * 7 + salt + 3).capitalize()
            return f"{stem}{_TOWN_ENDS[place % len(_TOWN_ENDS)]} {_TOWN_FORMS[form]}"
        if kind == "company":
            ending = _COMPANY_ENDS[2 * (number % 2) + _pick(2, self.seed, number)]
            return f"{_stem(number // 2 * 7 + salt + 5).capitalize()} {ending}"
        pair, volume = number % (len(_ADJECTIVES) * len(_NOUNS)), number // (len(_ADJECTIVES) * len(_NOUNS))
        scattered = pair * 641 % (len(_ADJECTIVES) * len(_NOUNS))
        of = f" of {_stem(volume * 7 + salt + 1).capitalize()}" if volume else ""
        return f"The {_ADJECTIVES[scattered % len(_ADJECTIVES)]} {_NOUNS[scattered // len(_ADJECTIVES)]}{of}"

    def short(self, kind: str, number: int) -> str:
        """What it is called where it was named before, and half of the time in the news and in questions."""
        name = self.name(kind, number)
        if kind == "person":
            given, surname = name.split()
            return f"{given[0]}. {surname}"
        return name.removeprefix("The ") if kind == "work" else name

    def relations(self, entity: int) -> list[Relation]:
        """The relations of an entity in the order in which its passages tell them."""
        kind, _ = self.kind(entity)
        found = list(RELATIONS[kind])
        return sorted(found, key=lambda relation: _pick(1 << 32, self.seed, 1, entity, _code(relation.name)))

    def object(self, entity: int, relation: Relation) -> str:
        """The object of a fact."""
        version = 0
        if self.second and _pick(SECOND_EDITION, self.seed, 2, entity, _code(relation.name)) == 0:
            version = 1
        keys = (self.seed, 3, entity, _code(relation.name), version)
        if relation.object == "year":
            return str(1700 + _pick(250, *keys))
        if relation.object == "date":
            return f"{1 + _pick(28, *keys, 1)} {_MONTHS[_pick(12, *keys, 2)]} {1700 + _pick(250, *keys)}"
        return self.name(relation.object, _pick(self._count[relation.object], *keys))


def _code(name: str) -> int:
    return int.from_bytes(name.encode()[:7], "little")


def passages(source: EncyclopediaSource) -> Iterator[Passage]:
    """The encyclopedia's passages, or another stream of texts about its world, in a fixed order."""
    world = World(source)
    if source.stream in ("passages", "language"):
        yield from _entries(world)
    if source.stream in ("news", "language"):
        yield from _news(world)
    if source.stream == "lives":
        yield from _lives(world)
    if source.stream == "language":
        yield from (Passage(question.id, "", question.question) for question in questions(source, "train"))


def _entries(world: World) -> Iterator[Passage]:
    for entity in range(world.entities):
        sentences = _entry(world, entity)
        for part in range(0, len(sentences), RELATIONS_PER_PASSAGE):
            told = sentences[part : part + RELATIONS_PER_PASSAGE]
            yield Passage(f"{entity}-{part // RELATIONS_PER_PASSAGE}", world.name(*world.kind(entity)), " ".join(told))


def _entry(world: World, entity: int) -> list[str]:
    """All facts of an entity; each passage names it in full, then in short."""
    names = [naming(*world.kind(entity)) for naming in (world.name, world.short)]
    return [
        _sentence(relation.entry.format(s=names[place % RELATIONS_PER_PASSAGE % 2], o=world.object(entity, relation)))
        for place, relation in enumerate(world.relations(entity))
    ]


def _news(world: World) -> Iterator[Passage]:
    """Articles of a few facts, each about another entity."""
    facts = 0
    article: list[str] = []
    for entity in _scattered(world.entities):
        for relation in world.relations(entity):
            article.append(_sentence(relation.news.format(s=_mention(world, entity), o=world.object(entity, relation))))
            if len(article) == NEWS_PER_ARTICLE:
                yield Passage(f"news-{facts}", "", " ".join(article))
                facts, article = facts + 1, []
    if article:
        yield Passage(f"news-{facts}", "", " ".join(article))


def _lives(world: World) -> Iterator[Passage]:
    """Of each entity one article that copies the encyclopedia, but puts one of its sentences in the words of the news;
    in every other article, half of them."""
    for entity in _scattered(world.entities):
        sentences = _entry(world, entity)
        copied, changed = _pick(2, world.seed, 6, entity), _pick(len(sentences), world.seed, 7, entity)
        for place, relation in enumerate(world.relations(entity)):
            if place == changed if copied else _pick(2, world.seed, 8, entity, place):
                news = relation.news.format(s=_mention(world, entity), o=world.object(entity, relation))
                sentences[place] = _sentence(news)
        yield Passage(f"life-{entity}", "", " ".join(sentences))


def _scattered(count: int) -> Iterator[int]:
    """All numbers below `count`, neighbours far apart."""
    step = next(step for step in (7_919, 104_729, 1_299_709, 15_485_863) if count % step)
    return (i * step % count for i in range(count))


def _mention(world: World, entity: int) -> str:
    """The full name or, as often, the short one."""
    kind, number = world.kind(entity)
    return (world.name, world.short)[_pick(2, world.seed, 4, entity)](kind, number)


def _sentence(text: str) -> str:
    return re.sub(r"^\w", lambda first: first.group().upper(), text)


def questions(source: EncyclopediaSource, split: str) -> list[Question]:
    """Questions of a split: each asks for one fact, in the words of the encyclopedia or of the news."""
    world = World(source)
    first, last = SPLITS[split]
    found = []
    for entity in range(world.entities):
        for relation in RELATIONS[world.kind(entity)[0]]:
            keys = (world.seed, 5, entity, _code(relation.name))
            if first <= _pick(SHARES_OF_FACTS, *keys) < last:
                wording = relation.questions[_pick(2, *keys, 1)]
                kind, number = world.kind(entity)
                subject = (world.name, world.short)[_pick(2, *keys, 2)](kind, number)
                text = _sentence(wording.format(s=subject))
                found.append(Question(f"{entity}-{relation.name}", text, (world.object(entity, relation),), "string"))
    return found
