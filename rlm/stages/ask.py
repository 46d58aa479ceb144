"""Why a model answers what it answers: passages, p(z|x), p(y|z,x) and the marginal p(y|x) (REALM, Table 3)."""

import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from rlm.build import build
from rlm.config import Runtime
from rlm.data.corpus import Corpus, Passage
from rlm.data.datamodules import to_tensors
from rlm.data.gold import question_tokens
from rlm.data.qa import Question
from rlm.data.tokens import Ragged, join
from rlm.errors import ConfigError
from rlm.models.config import FinetuneConfig, PretrainConfig
from rlm.models.marginal import marginal_log_likelihood
from rlm.models.open_qa import OpenQa
from rlm.models.realm import Realm, load_encoder
from rlm.retrieval.config import DualEncoderConfig
from rlm.retrieval.encoder import DualEncoder
from rlm.retrieval.refresh import open_snapshot
from rlm.stage_record import RECORD
from rlm.stages.finetune import load_open_qa
from rlm.stages.runs import config_part, input_folder
from rlm.stages.store import read_record
from rlm.stages.training import accelerator
from rlm.yaml_file import Document

SPANS_SHOWN = 3


def ask(
    store: Path, folder: Path, question: str, passage: str | None = None, answer: str | None = None, top: int = 8
) -> None:
    """Print what a run answers, and why.

    A fine-tuned run (`finetune-...` or its `evaluate-...`) answers a question; a pre-trained one (`pretrain-...`)
    fills the [MASK] of a sentence with `answer`, or with its own best word.

    Args:
        store: folder of results.
        folder: of the run, a finished stage.
        question: a question, or a sentence with one [MASK].
        passage: read this instead of what the index finds.
        answer: what [MASK] stands for.
        top: passages of the marginal.

    Raises:
        ConfigError: a sentence without [MASK].
    """
    record = read_record(folder)
    if record["name"] == "evaluate":
        folder = input_folder(store, record, "finetune")
        record = read_record(folder)
    if record["name"] == "finetune":
        lines = answer_question(store, folder, record, question, passage, top)
    else:
        lines = fill_mask(store, folder, record, question, passage, answer, top)
    console = Console(highlight=False, markup=False, emoji=False)  # texts hold what looks like markup
    for line in lines:
        console.print(line)


def _batch_of(corpus: Corpus, text: str, limit: int) -> Ragged:
    """The first word pieces of a text, as one row: what a model with such a limit was trained to read."""
    return question_tokens(corpus, [Question("", text, (), "string")]).take(np.zeros(1, np.int64), limit)


def _shares(scores: torch.Tensor) -> list[float]:
    return [float(share) for share in scores.double().softmax(0)]


def answer_question(
    store: Path, folder: Path, record: dict[str, Any], question: str, passage: str | None, top: int
) -> list[Any]:
    """Best spans of each passage with p(z|x) and p(y|z,x), then the answers by p(y|x) = sum over z."""
    config = {
        "encoder": _encoder_config(config_part(record, "encoder")),
        "retriever": build(DualEncoderConfig, Document(config_part(record, "retriever"))),
        "finetune": build(FinetuneConfig, Document(config_part(record, "finetune"))),
    }
    corpus = Corpus.open(input_folder(store, record, "corpus"))
    index = input_folder(store, record, "index")
    module: OpenQa = load_open_qa(config, folder, index, corpus, Runtime())
    tokens = _batch_of(corpus, question, config["retriever"].query_tokens - 2)
    with torch.inference_mode():
        query = module.embed_questions(tokens)
        if passage is not None:
            given = _batch_of(corpus, passage, config["finetune"].passage_tokens - 2)
            rows = to_tensors(join([tokens, given], corpus.special))
            passages, prior = [Passage("given", "", passage)], [1.0]
        else:
            found = module.index.search(query, min(top, len(corpus)))[1].cpu().numpy().astype(np.int64)
            rows = module.rows(tokens, found)
            passages = [corpus.passage(int(z)) for z in found[0]]
            prior = _shares(module.candidate_scores(query, found)[0])
        spans = module.reader({name: value.to(module.device) for name, value in rows.items()})
    table = Table("p(z|x)", "passage", "p(y|z,x)", "answer", title="retrieved passages and the answers in each")
    marginal: dict[str, float] = defaultdict(float)
    for z, source in enumerate(passages):
        share = spans[z].flatten().double().softmax(0)
        offsets = corpus.tokenizer(source.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        best: dict[str, float] = defaultdict(float)
        for flat in share.argsort(descending=True)[:50]:
            start, extra = divmod(int(flat), spans.shape[2])
            first = start - int(tokens.lengths[0]) - 2
            if first >= 0 and first + extra < len(offsets):
                best[source.text[offsets[first][0] : offsets[first + extra][1]]] += float(share[flat])
        for text, p in best.items():
            marginal[text.lower()] += prior[z] * p
        shown = sorted(best.items(), key=lambda item: -item[1])[:SPANS_SHOWN]
        table.add_row(
            f"{prior[z]:.3f}",
            textwrap.shorten(f"{source.title}: {source.text}", 90),
            "\n".join(f"{p:.3f}" for _, p in shown),
            "\n".join(text for text, _ in shown),
        )
    answers = Table("p(y|x)", "answer", title="marginal over the passages")
    for text, p in sorted(marginal.items(), key=lambda item: -item[1])[:SPANS_SHOWN]:
        answers.add_row(f"{p:.3f}", text)
    closed = "Without retrieval: a span reader has nothing to read. Ask the pretrain run with [MASK] for that figure."
    return [table, answers, closed]


def _encoder_config(plain: dict[str, Any]) -> Any:
    from rlm.retrieval.config import PretrainedEncoder, ScratchEncoder

    return build({"scratch": ScratchEncoder, "pretrained": PretrainedEncoder}[plain["kind"]], Document(plain))


def fill_mask(
    store: Path,
    folder: Path,
    record: dict[str, Any],
    sentence: str,
    passage: str | None,
    answer: str | None,
    top: int,
) -> list[Any]:
    """REALM's Table 3: p(y|x) without retrieval, with one passage, and marginalised over the top passages."""
    if sentence.count("[MASK]") != 1:
        raise ConfigError(f"found {sentence.count('[MASK]')} [MASK] in the sentence; write exactly one")
    corpus = Corpus.open(input_folder(store, record, "corpus"))
    retriever = build(DualEncoderConfig, Document(config_part(record, "retriever")))
    pretrain = build(PretrainConfig, Document(config_part(record, "pretrain")))
    device = torch.device(accelerator(Runtime()))
    encoder = load_encoder(folder / "encoder")
    module = Realm(DualEncoder.load(folder / "retriever", retriever), encoder, corpus, pretrain).to(device).eval()
    module.index = open_snapshot(_index_of(store, folder.name), device)
    limit = pretrain.query_tokens - 2
    before, after = (_batch_of(corpus, part, limit).values for part in sentence.split("[MASK]"))
    own = answer is None
    pieces = np.zeros(1, np.int64) if answer is None else _batch_of(corpus, answer, limit).values
    if not len(pieces):
        raise ConfigError("--answer is empty; write the text that [MASK] stands for, or leave it out")
    if len(before) + len(pieces) + len(after) > limit:
        raise ConfigError(f"the sentence has more than {limit} word pieces, which this run read; shorten it")
    masked = Ragged.from_rows([[*before, *[corpus.special.mask] * len(pieces), *after]])
    positions = torch.arange(len(before), len(before) + len(pieces)).unsqueeze(0)
    with torch.inference_mode():
        query = module.embed_queries(masked)
        found = module.index.search(query.float(), min(top, len(corpus)))[1].cpu().numpy().astype(np.int64)
        scores = module.score(query, found)
        batch = {"masked": masked, "positions": positions.to(device)}
        if own:
            pieces = _best_piece(module, batch, found, scores)
        batch["targets"] = torch.as_tensor(pieces).unsqueeze(0).to(device)
        likelihood = module.log_likelihood(batch, found)
        mask = torch.ones_like(positions, dtype=torch.bool, device=device)
        marginal = float(marginal_log_likelihood(scores, likelihood, mask, "joint").exp())
        of_passages = [float(p) for p in likelihood[0].sum(1).exp()]
        if passage is not None:
            rows = to_tensors(join([masked, _batch_of(corpus, passage, pretrain.passage_tokens - 2)], corpus.special))
            rows = {name: value.to(device) for name, value in rows.items()}
            given = float(encoder(rows, batch["positions"], batch["targets"]).sum().exp())
    table = Table("p(z|x)", "passage", "p(y|z,x)", title=f"y = {corpus.tokenizer.decode(pieces)}")
    names = ["(null passage)"] * pretrain.null_passage + [corpus.passage(int(z)) for z in found[0]]
    for prior, source, p in zip(_shares(scores[0]), names, of_passages, strict=True):
        shown = source if isinstance(source, str) else textwrap.shorten(f"{source.title}: {source.text}", 90)
        table.add_row(f"{prior:.3f}", shown, f"{p:.2g}")
    summary = Table("p(y|x)", "")
    if pretrain.null_passage:
        summary.add_row(f"{of_passages[0]:.2g}", "without retrieval (null passage)")
    if passage is not None:
        summary.add_row(f"{given:.2g}", "with the passage given")
    summary.add_row(f"{marginal:.2g}", f"marginal over the top {found.shape[1]} passages")
    return [table, summary]


def _best_piece(module: Realm, batch: dict[str, Any], found: np.ndarray, scores: torch.Tensor) -> np.ndarray:
    """The word piece with the highest marginal probability at the one [MASK]."""
    vocabulary = len(module.corpus.tokenizer)
    every = torch.arange(vocabulary, device=scores.device).unsqueeze(0)
    wide = {**batch, "positions": batch["positions"].expand(1, vocabulary).contiguous(), "targets": every}
    likelihood = module.log_likelihood(wide, found)
    mask = torch.ones_like(every, dtype=torch.bool)
    return marginal_log_likelihood(scores, likelihood, mask, "per_token").argmax(1).cpu().numpy()


def _index_of(store: Path, pretrain: str) -> Path:
    """The index stage built from a pre-trained retriever.

    Raises:
        ConfigError: it was not built.
    """
    for path in (store / "stages").glob("index-*"):
        if (path / RECORD).is_file() and read_record(path)["inputs"].get("retriever") == pretrain:
            return path
    raise ConfigError(f"{pretrain}: no index of its retriever in {store}; run a row that fine-tunes from it first")
