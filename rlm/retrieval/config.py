"""Configuration of retrievers, indexes and index refresh (imports nothing heavy)."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, Self

from rlm.limits import AboveZero, Between, Count, Name, NotNegative, Positive, QueryTokens, Share, ShareBelowOne


@dataclass(frozen=True, kw_only=True, slots=True)
class ScratchEncoder:
    """A BERT encoder with random weights."""

    kind: Literal["scratch"] = "scratch"
    layers: Positive = 2
    hidden_size: Positive = 128
    heads: Positive = 2
    max_positions: Positive = 512
    dropout: ShareBelowOne = 0.1
    initial_std: NotNegative = 0.02
    """Of the weights; BERT's is right for a width of 768, narrow encoders learn to copy sooner with more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainedEncoder:
    """A BERT-like checkpoint, by folder or hub name."""

    kind: Literal["pretrained"] = "pretrained"
    name: Name
    revision: Name | None = None
    dropout: ShareBelowOne | None = None
    """None keeps the checkpoint's own."""


EncoderConfig = ScratchEncoder | PretrainedEncoder


@dataclass(frozen=True, kw_only=True, slots=True)
class DualEncoderConfig:
    """One tower for queries and passages: pool, project, and score by inner product (ORQA)."""

    encoder: EncoderConfig
    pooling: Literal["cls", "mean", "pooler"] = "cls"
    """Of the last layer's vectors, that of [CLS] (`cls`), its image under BERT's pooler, tanh(W h + b) (`pooler`, what
    Hugging Face's REALM checkpoints project), or the mean of all."""
    projection: Positive | None = 128
    """Width of the embeddings; None keeps the encoder's own."""
    layer_norm: bool = True
    """LayerNorm after the projection, as the released code (the papers do not mention it)."""
    layer_norm_eps: AboveZero = 1e-3
    """Keras's default, with which the released weights were trained; Hugging Face's RealmEmbedder has 1e-12."""
    normalize: bool = False
    """Scale embeddings to `scale` ** 0.5 length, so that scores lie in [-scale, scale]."""
    scale: AboveZero = 16.0
    """Only read where `normalize` is true."""
    query_tokens: QueryTokens = 64
    passage_tokens: int = 288


def projection_mistake(config: DualEncoderConfig, name: str, width: int) -> str | None:
    """Why a dual encoder cannot take over the projection that a REALM checkpoint has, to vectors of a width."""
    if config.projection is None or (config.pooling, config.projection, config.layer_norm) == ("pooler", width, True):
        return None
    return (
        f"{name} was trained with a projection of what its pooler gives to {width} numbers and a LayerNorm; write"
        f" pooling: pooler, projection: {width} and layer_norm: true"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactIndex:
    """Blocked matrix products in torch: every passage is compared."""

    kind: Literal["exact"] = "exact"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the blocks scanned; candidates are always re-ranked in float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FaissFlat:
    kind: Literal["faiss_flat"] = "faiss_flat"


@dataclass(frozen=True, kw_only=True, slots=True)
class FaissIvfPq:
    """Inverted lists with product quantisation; small corpora get fewer lists, and say so."""

    kind: Literal["ivf_pq"] = "ivf_pq"
    lists: Positive = 4096
    sub_quantizers: Positive = 64
    probes: Positive = 32
    rerank: Count = 10
    """Candidates re-scored from the full embeddings, as a multiple of k; 0 keeps quantised scores."""

    @property
    def built(self) -> Self:
        """What the index depends on, whatever it is asked."""
        return replace(self, probes=FaissIvfPq().probes, rerank=FaissIvfPq().rerank)


@dataclass(frozen=True, kw_only=True, slots=True)
class FaissHnsw:
    kind: Literal["hnsw"] = "hnsw"
    neighbours: Annotated[int, Between(least=2)] = 32
    ef_construction: Positive = 200
    ef_search: Positive = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardedExact:
    """An exact index with each rank of torch.distributed holding its share of the passages."""

    kind: Literal["sharded_exact"] = "sharded_exact"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bm25:
    """Sparse retrieval over word pieces (bm25s)."""

    kind: Literal["bm25"] = "bm25"
    k1: NotNegative = 0.9
    b: Share = 0.4


IndexConfig = ExactIndex | FaissFlat | FaissIvfPq | FaissHnsw | ShardedExact


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkEncoderConfig:
    """A frozen encoder of chunks: the mean of its contextual vectors (RETRO, section 2.3)."""

    encoder: EncoderConfig
    normalize: bool = True
    """Scale embeddings to length 1, so that the largest inner product is the smallest L2 distance, the paper's."""
    max_tokens: int = 128
    """Word pieces of a chunk that are read, [CLS] and [SEP] among them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkIndexConfig:
    """The chunks of a retrieval corpus, and how they are found."""

    chunk_tokens: Positive = 64
    """Tokens of a chunk (m)."""
    encoder: ChunkEncoderConfig | None = None
    """Not read where `index` is `bm25`, needed elsewhere."""
    index: IndexConfig | Bm25 = field(default_factory=ExactIndex)


@dataclass(frozen=True, kw_only=True, slots=True)
class NeighboursConfig:
    """The neighbours of every chunk of a text."""

    k: int = 8
    """Computed for each chunk; whoever reads them may take fewer, the best."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PassagesConfig:
    """The chunks found for a question, to be read as its passages."""

    k: int = 20
    """Found for each question; whoever reads them may take fewer, the best."""
    index: IndexConfig | Bm25 | None = None
    """That finds them; None takes the one of the chunks' neighbours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexRefresh:
    """When and how the passage index is rebuilt during pre-training."""

    every: int | None = 500
    """Optimizer steps between snapshots (the paper: about 500); None never refreshes by count."""
    staleness: int = 1
    """Multiplies `every`: 30 is the paper's 30x stale MIPS row."""
    mode: Literal["sync", "async"] = "sync"
    """`sync` blocks while the index is built; `async` builds it in another process."""
    swap_after: Count | None = None
    """Optimizer steps from snapshot to swap, which makes an asynchronous run reproducible."""
    agreement_below: Share | None = None
    """Also refresh when the live and the indexed encoder agree on less than this share of the top k."""
    probes: int = 256
    """Queries on which agreement and churn are measured."""
    measure_every: int = 50
    """Optimizer steps between measurements of agreement."""
