"""Errors that a user can mend: one message with what was found and what to do instead."""

import difflib
import reprlib
from collections.abc import Iterable
from itertools import islice

from rlm.secrets import without_secrets


class _WithoutSecrets(Exception):
    """A message may quote an address with its password, or a library that does."""

    def __init__(self, message: object = "") -> None:
        super().__init__(without_secrets(str(message)))


class ConfigError(_WithoutSecrets, ValueError):
    """A table file, an overlay or an option that cannot be used; nothing was started."""


class StageError(_WithoutSecrets, RuntimeError):
    """A stage that cannot be computed or used; finished stages are kept."""


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, and all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    meant = f"did you mean `{close[0]}`? " if close else ""
    return f"{meant}Known: {', '.join(known) if known else 'none'}"


_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxstring, _brief.maxother, _brief.maxlong = 4, 120, 120, 120
_NAMES = 12


def quoted(value: object) -> str:
    """A value of a user's file for a message: on one line, its control characters escaped, its middle left out where
    it is long or deep."""
    try:
        return _brief.repr(value)
    except ValueError:  # Python's limit of digits
        return "a number of thousands of digits"


def listed(names: Iterable[str]) -> str:
    """Names of a user's file for a message, the first dozen; `nothing` where there is none."""
    some = [name if name.isprintable() and len(name) <= 120 else quoted(name) for name in islice(names, _NAMES + 1)]
    return ", ".join([*some[:_NAMES], "..."] if len(some) > _NAMES else some) or "nothing"
