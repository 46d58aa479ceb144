"""Errors that a user can mend: one message with what was found and what to do instead."""

import difflib
from collections.abc import Iterable

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
