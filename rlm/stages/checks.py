"""Mistakes between the fields of an experiment, found before work starts (imports nothing heavy)."""

from collections.abc import Mapping
from importlib.util import find_spec

from rlm.data.config import FilesSource, QuestionsConfig, TokenClassificationTagger
from rlm.models.config import Training
from rlm.retrieval.config import (
    EncoderConfig,
    ExactIndex,
    FaissFlat,
    FaissHnsw,
    FaissIvfPq,
    IndexConfig,
    ScratchEncoder,
)
from rlm.stages.checkpoint_checks import reads, width_of
from rlm.stages.checkpoint_rules import realm_checkpoints
from rlm.stages.experiment import RealmExperiment

# [CLS] and two [SEP], as every passage input has.
_SPECIAL = 3
_MULTIPLE = 8  # of `rlm.data.tokens.join`


def check_training(name: str, training: Training) -> list[str]:
    """Numbers that train nothing."""
    values = ((field_name, getattr(training, field_name)) for field_name in ("steps", "batch_size", "learning_rate"))
    return [f"{name}.{field_name}: found {value}; write a number above 0" for field_name, value in values if value <= 0]


def check_search(name: str, index: IndexConfig, width: int | None) -> list[str]:
    """Mistakes of a search among vectors of a width, where it is known."""
    mistakes = []
    if isinstance(index, FaissFlat | FaissIvfPq | FaissHnsw) and find_spec("faiss") is None:
        mistakes.append(f"{name}.kind: {index.kind} needs faiss, which is not installed; `pip install faiss-cpu`")
    if isinstance(index, FaissIvfPq) and width is not None and width % index.sub_quantizers:
        mistakes.append(
            f"{name}.sub_quantizers: {index.sub_quantizers} do not divide the width of {width}; write a divisor"
        )
    return mistakes


def check_questions(questions: Mapping[str, QuestionsConfig]) -> list[str]:
    """Sets of questions that are not three files; how many a pattern names is seen where they are read."""
    mistakes = []
    for name, config in questions.items():
        files = config.source.files if isinstance(config.source, FilesSource) else ()
        if files and len(files) != 3 and not any(set(file) & set("*?[") for file in files):
            mistakes.append(
                f"questions.{name}.source.files: found {len(files)}; write exactly three, in the order train, dev, test"
            )
    return mistakes


def search_in_words(index: ExactIndex | FaissFlat | FaissIvfPq) -> str:
    """How keys are found."""
    if isinstance(index, FaissIvfPq):
        found = f"IVF-PQ ({index.lists} lists at most, {index.probes} probed, {index.sub_quantizers} sub-quantizers)"
        again = f"distances from the full keys of {index.rerank} times k" if index.rerank else "quantised distances"
        return f"{found} with {again}"
    return "exact search"


def check_realm(experiment: RealmExperiment) -> list[str]:
    """What does not fit together, each as `dotted.name: what was found and what to write instead`."""
    e = experiment
    mistakes: list[str] = []
    for name, training in (
        ("ict.training", e.ict.training),
        ("pretrain.training", e.pretrain.training),
        ("finetune.training", e.finetune.training),
        *((("warm_start.training", e.warm_start.training),) if e.warm_start else ()),
    ):
        mistakes += check_training(name, training)
    mistakes += check_questions(e.questions)
    if isinstance(e.salient_spans, TokenClassificationTagger) and len(e.salient_spans.train_files) == 1:
        mistakes.append("salient_spans.train_files: found one; write at least two, to train on and then one to score")
    if e.pretrain.candidates < 2:
        mistakes.append(
            f"pretrain.candidates: found {e.pretrain.candidates}; write at least 2,"
            " since with one candidate p(z|x) is 1 and the retriever learns nothing"
        )
    if e.finetune.passages_read < 1:
        mistakes.append(f"finetune.passages_read: found {e.finetune.passages_read}; write at least 1")
    if e.finetune.early_candidates < 0:
        mistakes.append(f"finetune.early_candidates: found {e.finetune.early_candidates}; write 0 to switch it off")
    if not e.evaluate.recall_at or min(e.evaluate.recall_at) < 1:
        mistakes.append("evaluate.recall_at: write at least one number of passages, each above 0, such as [1, 5, 20]")
    if e.evaluate.batch_size < 1:
        mistakes.append(f"evaluate.batch_size: found {e.evaluate.batch_size}; write at least 1")
    refresh = e.pretrain.index_refresh
    if refresh.measure_every < 1 or refresh.probes < 0:
        mistakes.append("pretrain.index_refresh: write a `measure_every` of at least 1 and `probes` of at least 0")
    if refresh.agreement_below is not None and not refresh.probes:
        mistakes.append("pretrain.index_refresh.probes: agreement is measured on them; write some, such as 256")
    if refresh.staleness < 1 or (refresh.every is not None and refresh.every < 1):
        mistakes.append("pretrain.index_refresh: `every` and `staleness` count optimizer steps; write 1 or more")
    if refresh.swap_after is not None and refresh.mode == "sync":
        mistakes.append(
            "pretrain.index_refresh.swap_after: only read where mode is async; write mode: async or remove it"
        )
    for name, encoder in (("encoder", e.encoder), ("retriever.encoder", e.retriever.encoder)):
        if isinstance(encoder, ScratchEncoder) and encoder.max_positions % _MULTIPLE:
            mistakes.append(
                f"{name}.max_positions: found {encoder.max_positions}; write a multiple of {_MULTIPLE}, the step of"
                " padding"
            )
        if isinstance(encoder, ScratchEncoder) and encoder.hidden_size % encoder.heads:
            mistakes.append(
                f"{name}.hidden_size: {encoder.hidden_size} is no multiple of {encoder.heads} heads; change one of them"
            )
    mistakes += _lengths(e) + _index(e) + realm_checkpoints(e)
    limit = e.corpus.source.limit if isinstance(e.corpus.source, FilesSource) else None
    if limit is not None and e.corpus.packing == "as_is":
        wanted = {
            "pretrain.candidates": e.pretrain.candidates,
            "finetune.passages_read": e.finetune.passages_read,
            "finetune.early_candidates": e.finetune.early_candidates,
            "evaluate.recall_at": max(e.evaluate.recall_at, default=0),
        }
        for name, k in wanted.items():
            if k > limit:
                mistakes.append(f"{name}: {k} passages are asked of a corpus of {limit}; lower it, or raise the limit")
        if isinstance(e.index, FaissIvfPq) and e.index.lists > limit:
            mistakes.append(f"index.lists: {e.index.lists} lists for a corpus of {limit} passages; write fewer")
    return mistakes


def _index(e: RealmExperiment) -> list[str]:
    encoder = e.retriever.encoder
    own = encoder.hidden_size if isinstance(encoder, ScratchEncoder) else width_of(encoder)
    return check_search("index", e.index, e.retriever.projection or own)


def _positions(encoder: EncoderConfig) -> tuple[str, int]:
    """What an encoder is called, and the word pieces that it reads."""
    if isinstance(encoder, ScratchEncoder):
        return "the encoder", encoder.max_positions
    return encoder.name, reads(encoder)


def _lengths(e: RealmExperiment) -> list[str]:
    mistakes: list[str] = []
    name, positions = _positions(e.encoder)
    for field_name, read in (("pretrain", e.pretrain), *((("warm_start", e.warm_start),) if e.warm_start else ())):
        length = read.query_tokens + read.passage_tokens
        if length > positions:
            mistakes.append(
                f"{field_name}.passage_tokens: {read.passage_tokens} and query_tokens {read.query_tokens} make"
                f" {length} word pieces, {name} reads {positions}; shorten them"
            )
    finetune = e.finetune.passage_tokens + e.retriever.query_tokens
    if finetune > positions:
        mistakes.append(
            f"finetune.passage_tokens: {e.finetune.passage_tokens} and retriever.query_tokens"
            f" {e.retriever.query_tokens} make {finetune} word pieces, {name} reads {positions}; shorten them"
        )
    name, positions = _positions(e.retriever.encoder)
    for field_name in ("passage_tokens", "query_tokens"):
        length = getattr(e.retriever, field_name)
        if length > positions:
            mistakes.append(f"retriever.{field_name}: {length} word pieces, {name} reads {positions}; shorten it")
    if e.corpus.max_tokens <= _SPECIAL:
        mistakes.append(f"corpus.max_tokens: found {e.corpus.max_tokens}; write more than {_SPECIAL}")
    for name, length in (
        ("retriever.passage_tokens", e.retriever.passage_tokens),
        ("finetune.passage_tokens", e.finetune.passage_tokens),
        ("pretrain.passage_tokens", e.pretrain.passage_tokens),
    ):
        if length <= _SPECIAL:
            mistakes.append(f"{name}: found {length}; write more than {_SPECIAL}")
    return mistakes
