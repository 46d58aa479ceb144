"""Text files of users: opened by their first bytes, and what goes wrong named by file and line."""

import errno
import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from rlm.errors import ConfigError

GZIP = b"\x1f\x8b"
OTHER_FORMS = (
    (rb"PK\x03\x04|PK\x05\x06", "a zip archive", "unpack it"),
    (rb"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it, or compress it with gzip instead"),
    (rb"BZh[1-9]1AY&SY", "compressed with bzip2", "unpack it, or compress it with gzip instead"),
    (rb"\xfd7zXZ\x00", "compressed with xz", "unpack it, or compress it with gzip instead"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (rb"(?s).{257}ustar", "a tar archive", "unpack it"),
    (rb"PAR1\x15", "a Parquet file", "give it a name that ends in .parquet"),
    (rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff", "text in UTF-32", "convert it to UTF-8"),
    (rb"(?s)\xff\xfe|\xfe\xff|\x00[^\x00]|[^\x00]\x00", "text in UTF-16", "convert it to UTF-8"),
)
"""Patterns of first bytes that no text in UTF-8 has, what a file of them is, and what to do with it."""
_LONGEST = 262  # bytes looked at


@contextmanager
def open_text(path: Path, newline: str = "") -> Iterator[IO[str]]:
    """A text file in UTF-8 to read, with or without a byte order mark, unpacked where its first bytes are gzip's.

    Args:
        path: may be a pipe.
        newline: as for `open`: "" ends lines at any of \\n, \\r and \\r\\n, and keeps them.

    Raises:
        ConfigError: now or while it is read: what cannot be read, is damaged, or is in another form than text.
    """
    with readable(path, newline), path.open("rb") as raw:
        yield _decoded(path, raw, "strict", newline)


def create_text(path: Path) -> IO[str]:
    """A new text file in UTF-8, compressed if its name ends in `.gz`."""
    if path.name.endswith(".gz"):
        return cast(IO[str], gzip.open(path, "wt", encoding="utf-8", newline=""))
    return path.open("w", encoding="utf-8", newline="")


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, each with its end.

    Raises:
        ConfigError: see `open_text`.
    """
    with open_text(path) as file:
        yield from file


@contextmanager
def readable(path: Path, newline: str = "") -> Iterator[None]:
    """Turns what goes wrong while a file is read into a ConfigError that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        place = _undecodable(path, newline)
        raise ConfigError(f"{place}: not UTF-8 ({error.reason}); convert the file to UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:  # the last two, and BadGzipFile: of damaged gzip
        raise ConfigError(f"{path}: cannot be read ({_reason(error)}); {_remedy(error)}") from error


def refuse_other_forms(path: Path, start: bytes) -> None:
    """Raise ConfigError where a file's first bytes are those of another form than text."""
    for pattern, form, remedy in OTHER_FORMS:
        if re.match(pattern, start):
            raise ConfigError(f"{path}: cannot be read (it is {form}, whatever its name says); {remedy}")


def fault_of(path: Path) -> str | None:
    """Why a path leads neither to a file nor to a folder, with what to do; None where it does."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if not os.path.islink(path):
            return f"{path}: cannot be reached ({_reason(error)}); {_remedy(error)}"
        if error.errno == errno.ELOOP:
            return f"{path}: a link to {os.readlink(path)}, which leads back to it; remove the link"
        return (
            f"{path}: a link to {os.readlink(path)}, which is not there ({_reason(error)}); copy it again, or remove"
            " the link"
        )
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
    return f"{path}: a {kind}, not a file; put what it gives into a file, or remove it"


def unlistable(folder: Path, error: OSError) -> str:
    """What to say of a folder whose files cannot be listed."""
    return f"{folder}: its files cannot be listed ({_reason(error)}); {_remedy(error)}, or remove it"


def _decoded(path: Path, raw: io.BufferedReader, errors: str, newline: str) -> io.TextIOWrapper:
    start = raw.peek(_LONGEST)
    if start.startswith(GZIP):
        raw = io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw)), 1 << 16)
        start = raw.peek(_LONGEST)
        if start.startswith(GZIP):
            raise ConfigError(f"{path}: cannot be read (it is compressed with gzip twice); unpack it once")
    elif start and path.name.endswith(".gz"):
        refuse_other_forms(path, start)
        raise ConfigError(
            f"{path}: cannot be read (it is not compressed with gzip, as its name says); rename it to"
            f" {path.name.removesuffix('.gz')} if it is text, else copy or download it again"
        )
    refuse_other_forms(path, start)
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors=errors, newline=newline)


def _undecodable(path: Path, newline: str) -> str:
    """The line of a file that is not UTF-8; the file alone where it cannot be read again, as a pipe cannot."""
    if path.is_file():
        # what else is wrong with the line is not to hide this
        with suppress(OSError, EOFError, zlib.error), path.open("rb") as raw:
            for number, line in enumerate(_decoded(path, raw, "surrogateescape", newline), start=1):
                if re.search("[\udc80-\udcff]", line):
                    return f"{path}:{number}"
    return str(path)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _remedy(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "give yourself permission"
    if isinstance(error, FileNotFoundError):
        return "write the path of a file that is there"
    return "copy or download it again"
