"""A folder of text as tokens that is memory-mapped, opened, and handed to data workers by its path."""

from functools import cached_property
from pathlib import Path
from typing import Any, Self

from rlm.data.tokenizer import open_tokenizer


class MappedFolder:
    """What a stage wrote: arrays that a subclass maps in `__init__`, and a tokenizer that is loaded when first used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Memory-map a finished folder.

        Raises:
            ValueError: the arrays disagree (a damaged or truncated file).
        """
        return cls(folder)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}  # data workers map the files anew

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]

    @cached_property
    def tokenizer(self) -> Any:
        return open_tokenizer(self.folder / "tokenizer")
