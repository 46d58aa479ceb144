"""Files that are whole or not there (imports nothing heavy)."""

import os
from pathlib import Path

from rlm.errors import StageError


def write_whole(path: Path, text: str) -> None:
    """Write a text file in place of what was there, in UTF-8 with a final line break; a reader never sees half of it.

    Raises:
        StageError: it cannot be written; nothing is left beside it.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a pipe or a device is written to, not replaced
            path.write_text(text + "\n", encoding="utf-8", errors="replace")
            return
        try:
            partial.write_text(text + "\n", encoding="utf-8", errors="replace")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        inside = f"{error.filename}: " if error.filename not in (None, str(path), str(partial)) else ""
        raise StageError(f"{path}: cannot be written ({inside}{error.strerror or error})") from None
