"""Hides passwords and tokens in what is printed, logged or stored (imports nothing heavy)."""

import contextlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
# Whole values that are secret; those of addresses (`http_proxy`, `MLFLOW_TRACKING_URI`) are found by their form.
SECRET_VARIABLES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_HUB_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
# A password may hold `@` and `/`: everything up to the last `@` of the word. `sqlite:////home/a@b` names no user.
# An address that was taken for a path has lost a slash.
_IN_ADDRESS = re.compile(r"(?<=://)(?!/)\S+@|(?<=\w:/)[^\s/:@]+:\S+@|(?<=%3A%2F%2F)\S+?%40", re.IGNORECASE)
_HUB_TOKEN = re.compile(r"\bhf_(?:oauth_|jwt_)?[A-Za-z0-9]{10,}")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://(?!/)(.+)@[^@]*", re.IGNORECASE | re.DOTALL)
# A shorter word is part of too many others; within an address it is hidden all the same.
_SHORTEST, _SHORTEST_ANYWHERE = 4, 8


def without_secrets(text: str) -> str:
    """The text without what stands between `://` and `@`, the hub's tokens, and MLflow's password and token.

    Args:
        text: a message, a line of a log.
    """
    return _hider()(text)


def plain_without_secrets(value: Any) -> Any:
    """A plain value whose strings hold no secret of an address and no token of the hub, whatever the environment is."""
    if isinstance(value, str):
        return _HUB_TOKEN.sub(HIDDEN, _IN_ADDRESS.sub("", value))
    if isinstance(value, dict):
        return {name: plain_without_secrets(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_without_secrets(each) for each in value]
    return value


@contextlib.contextmanager
def hidden_secrets() -> Iterator[None]:
    """What this process prints meanwhile, its libraries' warnings and tracebacks too, holds no secrets."""
    sys.excepthook = _print_exception  # It stays: what leaves this block is printed after it.
    out, err = _Hiding.of("stdout"), _Hiding.of("stderr")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


def hide_in_file(path: Path) -> None:
    """Write a log anew where a line of it holds a secret; one that cannot be read or written stays as it is."""
    hide = _hider()
    with contextlib.suppress(OSError):
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            if all(hide(line) == line for line in file):
                return
            file.seek(0)
            hidden = [hide(line) for line in file]
        path.write_text("".join(hidden), encoding="utf-8", errors="surrogateescape", newline="")


def _print_exception(*error: Any) -> None:
    print(without_secrets("".join(traceback.format_exception(*error))), end="", file=sys.stderr)


class _Hiding:
    """A text stream that hides secrets in each piece written; everything else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @classmethod
    def of(cls, name: str) -> Any:
        stream = getattr(sys, name)
        return stream if stream is None or isinstance(stream, cls) else cls(stream)

    def write(self, text: str) -> int:
        self._stream.write(without_secrets(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _hider() -> Callable[[str], str]:
    """A function that hides what is secret in this environment."""
    forms = sorted({form for secret in _known() for form in _forms(secret)}, key=len, reverse=True)
    known = re.compile("|".join(map(_anywhere_or_alone, forms)), re.IGNORECASE) if forms else None

    def hide(text: str) -> str:
        if known is not None:
            text = known.sub(HIDDEN, text)
        return str(plain_without_secrets(text))

    return hide


def _known() -> set[str]:
    found = {os.environ.get(name, "") for name in SECRET_VARIABLES} | {_token_file()}
    for value in os.environ.values():
        address = _ADDRESS.fullmatch(value.strip()) if "://" in value else None
        if address is not None:
            user, colon, password = address[1].partition(":")
            found |= {address[1], password, *re.split("[@/:?#]", password)} if colon else {user}
    return {secret.strip() for secret in found if len(secret.strip()) >= _SHORTEST}


def _token_file() -> str:
    home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    path = Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token")
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, RuntimeError, ValueError):
        return ""


def _forms(secret: str) -> set[str]:
    """As it is, as addresses write it, and as `repr` and JSON do."""
    written = {secret, unquote(secret), quote(secret, safe=""), quote_plus(secret)}
    written |= {form for text in (secret, unquote(secret)) for form in (repr(text)[1:-1], json.dumps(text)[1:-1])}
    return {form for form in written if len(form) >= _SHORTEST}


def _anywhere_or_alone(form: str) -> str:
    found = re.escape(form)
    return found if len(form) >= _SHORTEST_ANYWHERE else rf"(?<![A-Za-z0-9]){found}(?![A-Za-z0-9])"
