"""Configuration of pairs of sentences (imports nothing heavy)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from rlm.data.config import FilesSource, PretrainedTokenizer
from rlm.limits import Between, Name, Pattern, Positive, Seed, VocabularySize

Domain = Literal["general", "law", "medicine"]
"""Of the phrasebook."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhrasebookSource:
    """Two generated languages: deterministic, needs no network.

    Law and medicine translate more than half of their words by words of their own, which general text uses at times.
    """

    kind: Literal["phrasebook"] = "phrasebook"
    domain: Domain = "general"
    split: Literal["train", "dev", "test"] = "train"
    sentences: Positive = 10_000
    words: Annotated[int, Between(least=3)] = 600
    """Of the language that is translated."""
    world_seed: Seed = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignedSource:
    """Two plain text files (.gz too) below the data folder, whose lines of the same number are a pair."""

    kind: Literal["aligned"] = "aligned"
    source_file: Pattern
    target_file: Pattern
    limit: Positive | None = None
    """Pairs read, from the first; None reads all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelConfig:
    """Sentences and their translations."""

    source: PhrasebookSource | AlignedSource | FilesSource
    """`files` holds records with `id` and the text in either language."""
    source_field: Name = "source"
    """Of a record of `files`: what is translated, such as `de`."""
    target_field: Name = "target"
    """Of a record of `files`: its translation, such as `en`."""
    prefix: str = ""
    """Put before what is translated, as T5 expects: `translate German to English: `."""
    part: tuple[float, float] = (0.0, 1.0)
    """Pairs kept, by a hash of their ids that is uniform in [0, 1): (0, 0.9) and (0.9, 1) split a source in two."""
    fraction: float = 1.0
    """Share of those pairs kept, by another hash of their ids; a smaller share is inside a larger."""
    longest: int | None = None
    """Tokens of either side, from which on a pair is left out when it has more; None refuses what the model cannot
    read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedPairTokenizer:
    """Byte-level BPE with an end of sentence and padding, trained on both languages together."""

    kind: Literal["trained_pairs"] = "trained_pairs"
    vocab_size: VocabularySize = 8000
    """With the 256 bytes, the end of a sentence and padding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainedPairTokenizer(PretrainedTokenizer):
    """The tokenizer of an encoder-decoder checkpoint, by folder or hub name."""

    source_language: Name | None = None
    """As a multilingual checkpoint (NLLB, M2M100, mBART) writes it, such as `deu_Latn`."""
    target_language: Name | None = None
    """Likewise; translations begin with its token."""


PairTokenizerConfig = TrainedPairTokenizer | PretrainedPairTokenizer


def files_of(source: AlignedSource | FilesSource) -> FilesSource:
    """The files that are read."""
    if isinstance(source, FilesSource):
        return source
    return FilesSource(files=(source.source_file, source.target_file), limit=source.limit)
