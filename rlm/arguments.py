"""Types of the command line's arguments: what no command could use is refused with the option's name (imports nothing
heavy).
"""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path

from rlm.limits import SEEDS, shown, unusable_name

LARGEST = 2**31 - 1
_DIGITS = re.compile(r"[-+]?[0-9]{1,4000}")
"""Of whole numbers; Python reads no more digits."""


def text(argument: str) -> str:
    """Text as it was typed, in UTF-8 whatever Python takes the terminal for; may be empty, and have many lines."""
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        raise _refused(argument, "not UTF-8; write it in UTF-8, as the terminal does") from None


def words(argument: str) -> str:
    """Text that is not empty."""
    found = text(argument)
    if not found.strip():
        raise _refused(argument, "write some text, or leave the option out")
    return found


def name(argument: str) -> str:
    """A name of one line."""
    found = text(argument)
    if wrong := unusable_name(found):
        raise _refused(argument, wrong)
    return found


def names(argument: str) -> tuple[str, ...]:
    """Names joined by commas."""
    found = tuple(each.strip() for each in text(argument).split(",") if each.strip())
    if not found:
        raise _refused(argument, "write names joined by commas, or leave the option out")
    return found


def path(argument: str) -> Path:
    """A file or a folder, which need not be there."""
    if "\0" in text(argument) or not argument:
        raise _refused(argument, "write the path of a file or a folder")
    raw = os.fsencode(argument)
    if any(len(part) > 255 for part in raw.split(b"/")) or len(raw) > 4095:
        raise _refused(argument, "no file has so long a name; write a shorter path")
    return Path(argument)


def file(argument: str) -> Path:
    """A file, which need not be there."""
    if argument.endswith("/"):
        raise _refused(argument, "a folder; name a file in it")
    return path(argument)


def folder(argument: str) -> Path:
    """A folder, which need not be there."""
    found = path(argument)
    if os.path.exists(found) and not os.path.isdir(found):
        raise _refused(argument, "a file; write the path of a folder")
    return found


def seeds(argument: str) -> tuple[int, ...]:
    """Whole numbers joined by commas; their range is that of the table file's."""
    parts = [part.strip() for part in argument.split(",")]
    if not all(map(_DIGITS.fullmatch, parts)):
        raise _refused(argument, "write whole numbers joined by commas, such as 0,1,2")
    return tuple(map(int, parts))


def whole(least: int, most: int = LARGEST) -> Callable[[str], int]:
    """A whole number of a range."""

    def read(argument: str) -> int:
        if not _DIGITS.fullmatch(argument) or int(argument) < least:
            raise _refused(argument, f"write a whole number, {least} or more")
        if int(argument) > most:
            raise _refused(argument, f"write a whole number from {least} to {most}")
        return int(argument)

    return read


def number(argument: str) -> float:
    """Any number; what it means tells its range."""
    try:
        return float(argument)
    except ValueError:
        raise _refused(argument, "write a number") from None


count, positive, seed = whole(0), whole(1), whole(0, SEEDS)


def _refused(argument: str, instead: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"found `{shown(argument)}`; {instead}")
