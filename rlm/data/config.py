"""Configuration of corpora, documents, tokenizers, questions, salient spans and masking (imports nothing heavy)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from rlm.limits import AboveZero, Distinct, Name, Pattern, Patterns, Positive, PositiveShare, Seed, VocabularySize


@dataclass(frozen=True, kw_only=True, slots=True)
class EncyclopediaSource:
    """The generated world: deterministic, needs no network."""

    kind: Literal["encyclopedia"] = "encyclopedia"
    entities: Positive = 4000
    """Entities of the world; passages and questions grow in proportion."""
    world_seed: Seed = 0
    edition: Literal["first", "second"] = "first"
    """The second edition differs from the first in some facts (REALM, Table 4)."""
    stream: Literal["passages", "news", "lives", "language"] = "passages"
    """`passages` is the knowledge corpus; `news` retells its facts in other words (X different from Z); `lives` are
    articles of one entity each that copy the passages of it, in full or in part, as texts of the web do; `language` is
    passages, news and training questions, for a tokenizer that knows every word."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilesSource:
    """JSON Lines (.gz too), Parquet or DPR's TSV, below the data folder given at run time (`--data`)."""

    kind: Literal["files"] = "files"
    files: Patterns
    """Paths or glob patterns relative to the data folder, read in this order (a glob's matches by name)."""
    limit: Positive | None = None
    """Records read, from the first; None reads all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSource:
    """A Hugging Face data set with columns `id`, `title`, `text` (corpora) or `question`, `answers`."""

    kind: Literal["hub"] = "hub"
    dataset: Name
    name: Name | None = None
    revision: Name
    """Commit of the data set: what identifies a result must not move."""
    limit: Positive | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedTokenizer:
    """Lower-cased WordPiece, trained."""

    kind: Literal["trained"] = "trained"
    vocab_size: VocabularySize = 4096
    source: EncyclopediaSource | FilesSource | HubSource | None = None
    """Text it is trained on; None takes the corpus."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedByteTokenizer:
    """Byte-level BPE as GPT-2's, trained: it gives every text back, so that bits per byte are those of the raw text.

    For language models only: it has no [CLS], [SEP] and [MASK].
    """

    kind: Literal["trained_bytes"] = "trained_bytes"
    vocab_size: VocabularySize = 8192
    """With the 256 bytes and the end of a text."""
    source: EncyclopediaSource | FilesSource | HubSource | None = None
    """Text it is trained on; None takes the documents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainedTokenizer:
    """The tokenizer of a checkpoint, by folder or hub name."""

    kind: Literal["pretrained"] = "pretrained"
    name: Name
    revision: Name | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusConfig:
    source: EncyclopediaSource | FilesSource | HubSource
    max_tokens: int = 288
    """Word pieces a passage may take with its title and three special tokens (ORQA: 288)."""
    packing: Literal["sentences", "as_is"] = "sentences"
    """`sentences` packs documents greedily at sentence ends; `as_is` keeps each record one passage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentsConfig:
    """Whole documents for language modelling, or to retrieve chunks from."""

    source: EncyclopediaSource | FilesSource | HubSource
    join: Literal["as_is", "by_id_prefix"] = "as_is"
    """`as_is` makes each record a document; `by_id_prefix` joins the passages of one, told by their ids: those named
    `wiki:12:0`, `wiki:12:3` are parts of `wiki:12` in the order of their numbers, as `7-0`, `7-1` are of `7`."""
    exclude: EncyclopediaSource | FilesSource | HubSource | None = None
    """Documents that are evaluated on: records with their ids or titles are left out. `wiki:12` keeps `wiki:12:0` out
    too, and its title the passages that another source has of the same article."""
    part: tuple[float, float] = (0.0, 1.0)
    """Documents kept, by a hash of their ids that is uniform in [0, 1): (0, 0.9) and (0.9, 1) split a source in two."""
    fraction: float = 1.0
    """Share of those documents kept, by another hash of their ids; a smaller share is inside a larger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionsConfig:
    """One open-QA data set with splits train, dev and test."""

    source: EncyclopediaSource | FilesSource | HubSource
    """`files` takes exactly three files, in the order train, dev, test."""
    train_limit: Positive | None = None
    dev_limit: Positive | None = None
    test_limit: Positive | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RulesTagger:
    """Dates by regular expression, and capitalised phrases outside sentence starts."""

    kind: Literal["rules"] = "rules"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpacyTagger:
    """A spaCy pipeline's entities, and dates by regular expression."""

    kind: Literal["spacy"] = "spacy"
    pipeline: Name = "en_core_web_sm"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenClassificationTagger:
    """A transformers token-classification model, and dates by regular expression.

    The paper's tagger is BERT trained on CoNLL-2003; with `train_files` the stage trains one.
    """

    kind: Literal["token_classification"] = "token_classification"
    name: Name
    """Checkpoint folder or hub name; the encoder to start from where `train_files` is given."""
    revision: Name | None = None
    train_files: Annotated[tuple[Pattern, ...], Distinct()] = ()
    """CoNLL files relative to the data folder: train, then dev (F1 is logged on the last)."""
    epochs: Positive = 5
    batch_size: Positive = 16
    learning_rate: AboveZero = 5e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformTokens:
    """Each word piece of the sentence is masked with equal probability."""

    kind: Literal["uniform_tokens"] = "uniform_tokens"
    rate: PositiveShare | None = None
    """Share of word pieces masked (BERT: 0.15); None masks as many as the salient span scheme would."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomSpans:
    """Contiguous spans of geometric length (SpanBERT: p = 0.2, at most 10)."""

    kind: Literal["random_spans"] = "random_spans"
    rate: PositiveShare | None = None
    """Share of word pieces masked (SpanBERT: 0.15); None masks as many as the salient span scheme would."""
    p: PositiveShare = 0.2
    max_span: Positive = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class SalientSpans:
    """One salient span of the sentence, drawn uniformly (REALM)."""

    kind: Literal["salient_spans"] = "salient_spans"


Part = Literal["both", "neighbour", "continuation"]
"""Of a neighbour: the chunk that was found, the one that follows it, or both."""
MaskingConfig = UniformTokens | RandomSpans | SalientSpans
TaggerConfig = RulesTagger | SpacyTagger | TokenClassificationTagger
TokenizerConfig = TrainedTokenizer | PretrainedTokenizer
TextTokenizerConfig = TrainedTokenizer | TrainedByteTokenizer | PretrainedTokenizer
"""Of documents."""
