"""A tiny world: the encyclopedia of 60 entities as a corpus, its salient spans, and small encoders over it."""

from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch

from rlm.config import Runtime
from rlm.data.config import CorpusConfig, EncyclopediaSource, RulesTagger, TrainedTokenizer
from rlm.data.corpus import Corpus, write_corpus
from rlm.data.encyclopedia import questions
from rlm.data.qa import Question
from rlm.data.salient_spans import SalientSpanTable
from rlm.data.sentences import sentence_spans
from rlm.data.sources import Passage, read_passages
from rlm.data.tokenizer import make_tokenizer
from rlm.models.realm import KnowledgeAugmentedEncoder
from rlm.retrieval.config import DualEncoderConfig, ScratchEncoder
from rlm.retrieval.encoder import DualEncoder
from rlm.stages import salient_spans

SOURCE = EncyclopediaSource(entities=60)
ENCODER = ScratchEncoder(layers=2, hidden_size=32, heads=2, max_positions=160, dropout=0.0, initial_std=0.2)
RETRIEVER = DualEncoderConfig(encoder=ENCODER, projection=16, query_tokens=32, passage_tokens=64)


@dataclass
class Surroundings:
    """A context that remembers."""

    runtime: Runtime = field(default_factory=lambda: Runtime(device="cpu"))
    seed: int = 0
    threads: int = 1
    logged: list = field(default_factory=list)
    shown: list = field(default_factory=list)

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def progress(self, done, total, **shown):
        self.shown.append((done, total))

    def all_read(self):
        pass


@dataclass(frozen=True)
class TinyWorld:
    """What the tests read; nobody writes to it."""

    folder: Path
    """The corpus; `spans/` below it holds the salient spans."""
    corpus: Corpus
    spans: SalientSpanTable
    questions: list[Question]


def _odd_passages() -> list[Passage]:
    """Copies, passages of one sentence, long bodies and a long title."""
    entries = list(islice(read_passages(SOURCE, None), 12))
    news = list(islice(read_passages(replace(SOURCE, stream="news"), None), 60))
    copies = [entry._replace(id=f"copy-{entry.id}") for entry in entries]
    short = [article._replace(text=article.text[: sentence_spans(article.text)[0][1]]) for article in news[:40]]
    text = " ".join(article.text for article in news[40:43])
    long = [Passage("long title", text, text), Passage("long body", "Long", text)]
    return [*copies, *short, *long]


def write_world(folder: Path) -> TinyWorld:
    """The passages as a corpus with a vocabulary of 900 word pieces, the spans of the rules tagger, the questions."""
    records = [*read_passages(SOURCE, None), *_odd_passages()]
    texts = [text for record in records for text in (record.title, record.text)]
    tokenizer = make_tokenizer(TrainedTokenizer(vocab_size=900), lambda: iter(texts))
    write_corpus(folder, records, tokenizer, CorpusConfig(source=SOURCE, packing="as_is"))
    spans = folder / "spans"
    spans.mkdir()
    salient_spans.run(RulesTagger(), {"text": folder}, spans, Surroundings())
    return TinyWorld(folder, Corpus.open(folder), SalientSpanTable.open(spans), questions(SOURCE, "train"))


def small_retriever(corpus: Corpus, seed: int = 0) -> DualEncoder:
    """Random weights, wide enough that scores differ; no dropout."""
    torch.manual_seed(seed)
    return DualEncoder(RETRIEVER, corpus.vocab_size)


def small_encoder(corpus: Corpus, seed: int = 1) -> KnowledgeAugmentedEncoder:
    """As `small_retriever`, with a masked-token head."""
    torch.manual_seed(seed)
    return KnowledgeAugmentedEncoder(ENCODER, corpus.vocab_size)
