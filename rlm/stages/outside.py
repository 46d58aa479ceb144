"""What a stage reads from outside the store has to be what its key was made of (imports nothing heavy)."""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rlm.data.content import content_digest, file_sha256, file_state, files_read
from rlm.errors import StageError
from rlm.stage_record import read_json

MARK = ".reading.json"
"""In the folder of a stage that is reading: path -> state of each file when it began."""


class Content:
    """Digests of what the stages of a table read, as its plan found it."""

    def __init__(self, data: Path | None) -> None:
        """`data` is the folder that sources of kind `files` are relative to."""
        self._data = data
        self._found: dict[str, str] = {}

    def digest(self, source: Any) -> str:
        """Of a source, tagger or checkpoint: part of the key of the stages that read it."""
        return content_digest(source, self._data, self._sha256)

    def files(self, config: Any) -> dict[str, str]:
        """SHA-256 by path of every file that a stage with this configuration reads."""
        return {path: self._sha256(path) for path in outside_files(config, self._data)}

    def _sha256(self, path: str | Path) -> str:
        """Of each file once: what is planned with and what is compared later must be the same."""
        real = os.path.realpath(path)
        if real not in self._found:
            self._found[real] = file_sha256(path)
        return self._found[real]


def outside_files(config: Any, data: Path | None) -> list[str]:
    """Paths of the files that a stage with this configuration reads, the same in every process."""
    return [os.path.abspath(path) for path in files_read(config, None if data is None else data.resolve())]


class ChangedFiles(StageError):
    """A stage read, or would read, other files than its key was made of."""

    def __init__(self, path: str, how: str = "changed") -> None:
        below = os.path.relpath(path)
        shown = path if below.startswith("..") else below
        super().__init__(f"{shown}: {how} since the run was planned; give the command again")


class OutsideFiles:
    """The files that one attempt at a stage reads: as planned, and the same until all is read."""

    def __init__(self, planned: Mapping[str, str], work: Path) -> None:
        """
        Args:
            planned: SHA-256 by path.
            work: folder of the attempt.
        """
        self._planned, self._mark = planned, work / MARK
        self._states: dict[str, list[int]] = {}

    def begin(self, found: Collection[str]) -> bool:
        """Compare the files with what was planned, before anything is read.

        Args:
            found: paths of the files that will be read.

        Returns:
            whether what an earlier attempt left can be gone on with; not where it ended while it was reading, and the
            files were touched since: it may have read others.

        Raises:
            ChangedFiles: they are not as planned.
        """
        if others := sorted(self._planned.keys() ^ set(found)):
            raise ChangedFiles(others[0], "came or went")
        self._states = {path: list(file_state(path)) for path in self._planned}
        for path, planned in self._planned.items():
            if file_sha256(path) != planned:
                raise ChangedFiles(path)
        return self._left() in (None, self._states)

    def mark(self) -> None:
        """Note, for an attempt after this one, that it is reading."""
        self._mark.write_text(json.dumps(self._states), encoding="utf-8")

    def all_read(self) -> None:
        """Compare the files again: one may have been replaced, and even put back, while they were read.

        Raises:
            ChangedFiles: one was.
        """
        for path, state in self._states.items():
            if not os.path.exists(path) or list(file_state(path)) != state:
                raise ChangedFiles(path)
        self._states = {}
        self._mark.unlink(missing_ok=True)

    def _left(self) -> Any:
        """The states that an attempt noted which did not end its reading; None where there is none."""
        try:
            return read_json(self._mark)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return "damaged"
