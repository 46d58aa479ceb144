"""What values of a configuration's fields can be, written beside their types (imports nothing heavy).

A field of type `Positive` is an `int` to everybody but `rlm.build`, which has pydantic check it where a file is read:
what no stage could use is told with its place before anything starts.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rlm.secrets import without_secrets

SEEDS = 2**32 - 1
"""The largest seed that every library takes."""
_HARMFUL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff"
    + "".join(chr(plane + last) for plane in range(0x10000, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF))
    + "]"
)
"""Line ends, tabs and other controls; what turns the direction of the text around it; what is no character."""
_LONGEST_PART, _LONGEST_NAME = 255, 1000
"""Bytes of a file's name, as file systems have it, and of a whole path."""


def harmful(text: str) -> str | None:
    """The first character, as `U+000A`, that text of one line may not hold."""
    found = _HARMFUL.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def shown(value: object, longest: int = 60) -> str:
    """A value in a message: on one line, without characters that a terminal would obey, cut where it is long."""
    text = without_secrets(str(value))[: longest + 1]
    text = _HARMFUL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def unusable_name(name: str) -> str | None:
    """Why text can be no name of a file, a checkpoint or a data set; None where it can."""
    if not name.strip():
        return "write a name"
    if found := harmful(name):
        return f"it holds the character {found}; write a name of one line"
    if len(name.encode()) > _LONGEST_NAME or any(len(part.encode()) > _LONGEST_PART for part in name.split("/")):
        return f"its parts have at most {_LONGEST_PART} bytes; write a shorter name"
    return None


class Limit:
    """A condition beside a type, for pydantic to check after the type."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic import AfterValidator  # the command line reads this module, and should not wait for pydantic

        return AfterValidator(self).__get_pydantic_core_schema__(source, handler)

    def __call__(self, value: Any) -> Any:
        """The value.

        Raises:
            ValueError: what was found and what to write instead.
        """
        text = self.mistake(value)
        if text is not None:
            raise ValueError(text)
        return value

    def mistake(self, value: Any) -> str | None:
        """What was found and what to write instead; None where the value can be used."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Between(Limit):
    """A number's range."""

    least: float = -float("inf")
    most: float = float("inf")
    above: float = -float("inf")
    """Itself not allowed."""
    below: float = float("inf")
    """Likewise."""

    def mistake(self, value: Any) -> str | None:
        """The value, and the range."""
        if self.least <= value <= self.most and self.above < value < self.below:
            return None
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        range = ", ".join(f"{word} {bound:.10g}" for word, bound in bounds.items() if abs(bound) != float("inf"))
        return f"found {shown(value)}; write {'' if self.least > self.above else 'a number '}{range}"


@dataclass(frozen=True, slots=True)
class SeedRange(Limit):
    """Whole numbers that every random generator takes."""

    def mistake(self, value: Any) -> str | None:
        """The value, and the range."""
        return None if 0 <= value <= SEEDS else f"found {shown(value)}; write whole numbers from 0 to {SEEDS}"


@dataclass(frozen=True, slots=True)
class Distinct(Limit):
    """A list whose entries count something: none twice, and at least one where `needed` says of what."""

    needed: str = ""

    def mistake(self, value: Sequence[Any]) -> str | None:
        """The repeated entry."""
        if self.needed and not value:
            return f"found []; write at least one {self.needed}"
        return repeated(value)


def repeated(values: Sequence[Any]) -> str | None:
    """A mistake's text where an entry is there twice."""
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            return f"{shown(value)} is given twice; keep one"
        seen.add(value)
    return None


@dataclass(frozen=True, slots=True)
class OneLine(Limit):
    """Text that is shown in tables, or empty."""

    def mistake(self, value: str) -> str | None:
        """The character that would break a line."""
        found = harmful(value)
        return f"found `{shown(value)}` with the character {found}; write it in one line" if found else None


@dataclass(frozen=True, slots=True)
class Named(Limit):
    """The name of a file, a checkpoint, a data set or a field."""

    def mistake(self, value: str) -> str | None:
        """Why it is none."""
        wrong = unusable_name(value)
        if wrong is None and value.startswith("~"):
            try:
                Path(value).expanduser()
            except RuntimeError:
                wrong = "there is no such home; write the folder's path"
        return f"found `{shown(value)}`; {wrong}" if wrong else None


@dataclass(frozen=True, slots=True)
class FilePattern(Limit):
    """A path below the data folder, or a glob pattern of some."""

    def mistake(self, value: str) -> str | None:
        """Why it is none; the rules of glob patterns are pathlib's own."""
        wrong = unusable_name(value)
        if wrong is None:
            try:
                any(Path(os.devnull).glob(value))
            except (ValueError, IndexError, NotImplementedError):
                wrong = "write a file, or a pattern of some, relative to the data folder, such as wiki/*.jsonl"
        return f"found `{shown(value)}`; {wrong}" if wrong else None


Seed = Annotated[int, SeedRange()]
Positive = Annotated[int, Between(least=1)]
Count = Annotated[int, Between(least=0)]
AboveZero = Annotated[float, Between(above=0)]
NotNegative = Annotated[float, Between(least=0)]
Share = Annotated[float, Between(least=0, most=1)]
PositiveShare = Annotated[float, Between(above=0, most=1)]
ShareBelowOne = Annotated[float, Between(least=0, below=1)]
Line = Annotated[str, OneLine()]
Name = Annotated[str, Named()]
Pattern = Annotated[str, FilePattern()]
VocabularySize = Annotated[int, Between(least=1, most=10_000_000)]
QueryTokens = Annotated[int, Between(least=3)]
"""With [CLS] and [SEP]."""
PassageTokens = Annotated[int, Between(least=4)]
"""With [CLS] and two [SEP]."""
Seeds = Annotated[tuple[Seed, ...], Distinct()]
Names = Annotated[tuple[Name, ...], Distinct()]
Patterns = Annotated[tuple[Pattern, ...], Distinct("file or pattern")]
