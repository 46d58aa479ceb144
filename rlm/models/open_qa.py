"""Open-domain question answering over a fixed passage index (ORQA, 1906.00300, section 5, as REALM fine-tunes)."""

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rlm.data.corpus import Corpus
from rlm.data.datamodules import to_tensors
from rlm.data.gold import GoldAnswers
from rlm.data.tokens import Ragged, join
from rlm.models.config import FinetuneConfig
from rlm.models.marginal import marginal_over
from rlm.models.optimizer import configure
from rlm.models.realm import KnowledgeAugmentedEncoder, reader_rows
from rlm.retrieval.encoder import DualEncoder
from rlm.retrieval.index import Index

MASKED = -10_000.0  # finite, as released: a gold span that is masked must not give an infinite loss


class SpanReader(nn.Module):
    """Scores every span of a passage, up to `max_span` word pieces: w . LN(relu(A h_start + B h_end + b)) + c."""

    def __init__(self, encoder: KnowledgeAugmentedEncoder, hidden_size: int, max_span: int) -> None:
        super().__init__()
        self.encoder, self.max_span = encoder, max_span
        width = encoder.model.config.hidden_size
        self.start = nn.Linear(width, hidden_size)
        self.end = nn.Linear(width, hidden_size, bias=False)
        self.norm = nn.LayerNorm(hidden_size, eps=1e-3)
        self.output = nn.Linear(hidden_size, 1)
        for layer in (self.start, self.end, self.output):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.start.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, rows: dict[str, Tensor]) -> Tensor:
        """Span logits.

        Args:
            rows: ids, mask and segments of `[CLS] question [SEP] body [SEP]`, each [rows, length].

        Returns:
            [rows, length, max_span]: entry (i, s, w) is the span of w + 1 word pieces from position s;
            -10,000 is added where it leaves the passage.
        """
        hidden = self.encoder.hidden(**rows)
        start, end = self.start(hidden), self.end(hidden)
        widths = self.max_span
        # [rows, length, max_span, hidden]: the end vectors of the widths 1 .. max_span
        ends = F.pad(end, (0, 0, 0, widths - 1)).unfold(1, widths, 1).transpose(2, 3)
        logits = self.output(self.norm(F.relu(start.unsqueeze(2) + ends))).squeeze(3).float()
        inside = passage_positions(rows["mask"], rows["segments"])
        ends_inside = F.pad(inside, (0, widths - 1)).unfold(1, widths, 1)
        return logits + MASKED * ~(inside.unsqueeze(2) & ends_inside)


def passage_positions(mask: Tensor, segments: Tensor) -> Tensor:
    """True on the body's word pieces of `[CLS] question [SEP] body [SEP]`, [rows, length]."""
    second = mask & (segments == 1)
    last = second & ~F.pad(second, (0, 1))[:, 1:]
    return second & ~last


@dataclass(frozen=True)
class Prediction:
    """The best span of each question; arrays of [questions]."""

    passage: NDArray[np.int64]
    start: NDArray[np.int64]
    """First word piece in the passage's body."""
    end: NDArray[np.int64]
    """After the last."""
    score: NDArray[np.float32]


class OpenQa(pl.LightningModule):
    """Question encoder and reader trained by the marginal over correct spans, plus ORQA's early loss."""

    def __init__(
        self,
        retriever: DualEncoder,
        reader: SpanReader,
        corpus: Corpus,
        index: Index,
        embeddings: Tensor,
        config: FinetuneConfig,
        gold: GoldAnswers | None = None,
    ) -> None:
        super().__init__()
        self.retriever, self.reader, self.corpus, self.index = retriever, reader, corpus, index
        self.embeddings, self.config, self.gold = embeddings, config, gold
        retriever.requires_grad_(config.train_retriever)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch

    def embed_questions(self, questions: Ragged) -> Tensor:
        """[batch, dim]; questions are cut at the query encoder's length."""
        cut = questions.take(np.arange(len(questions)), self.retriever.config.query_tokens - 2)
        rows = to_tensors(join([cut], self.corpus.special))
        return self.retriever.embed_query(rows["ids"].to(self.device), rows["mask"].to(self.device)).float()

    def rows(self, questions: Ragged, passages: NDArray[np.int64]) -> dict[str, Tensor]:
        cut = questions.take(np.arange(len(questions)), self.retriever.config.query_tokens - 2)
        rows = reader_rows(cut, self.corpus, passages, self.config.passage_tokens, null=False)
        return {name: value.to(self.device) for name, value in rows.items()}

    def candidate_scores(self, queries: Tensor, passages: NDArray[np.int64]) -> Tensor:
        """f(q, z) of the live question encoder and the fixed embeddings, with gradient, [batch, candidates]."""
        embeddings = self.embeddings[torch.from_numpy(passages)].to(self.device).float()
        return torch.einsum("bd,bkd->bk", queries, embeddings)

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        assert self.gold is not None
        config = self.config
        queries = self.embed_questions(batch["tokens"])
        count = min(max(config.early_candidates, config.passages_read), len(self.corpus))
        found = self.index.search(queries.detach(), count)[1].cpu().numpy().astype(np.int64)
        scores = self.candidate_scores(queries, found)
        has_answer = torch.from_numpy(self.gold.contained(batch["questions"], found)).to(self.device)
        early = marginal_over(scores, has_answer).mean() if config.early_candidates else scores.new_zeros(())
        read = found[:, : config.passages_read]
        row, *where = self.gold_spans(batch, read)
        # A question without a correct span has no loss, so only the others are read; one at least, for the graph.
        readable = np.unique(row)
        asked = readable if len(readable) else np.zeros(1, np.int64)
        rows = self.rows(batch["tokens"].take(asked), read[asked])
        # [questions read, passages, length, width]
        spans = self.reader(rows).unflatten(0, (len(asked), -1)) + scores[asked, : read.shape[1], None, None]
        correct = torch.zeros(spans.shape, dtype=torch.bool)
        correct[np.searchsorted(asked, row), *where] = True
        reader = marginal_over(spans.flatten(1), correct.flatten(1).to(self.device)).sum() / len(read)
        metrics: dict[str, Tensor | float] = {
            "loss": reader + early,
            "reader_loss": reader.detach(),
            "early_loss": early.detach(),
            f"recall@{read.shape[1]}": has_answer[:, : read.shape[1]].any(dim=1).float().mean(),
            "readable": len(readable) / len(read),
        }
        self.log_dict(metrics, sync_dist=True, batch_size=len(read))
        return reader + early

    def gold_spans(self, batch: dict[str, Any], passages: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Every occurrence of an answer that the reader can give.

        Returns:
            Arrays of [occurrences]: row of the batch, column of `passages`, position in the reader's row, width - 1.
        """
        assert self.gold is not None
        limit = self.config.passage_tokens - 2  # as `reader_rows` cuts
        row, column, start, end = self.gold.occurrences(batch["questions"], passages, limit)
        kept = end - start <= self.config.max_span
        row, column, start, end = row[kept], column[kept], start[kept], end[kept]
        lengths = np.minimum(batch["tokens"].lengths, self.retriever.config.query_tokens - 2)
        return row, column, start + lengths[row] + 2, end - start - 1

    @torch.inference_mode()
    def predict(self, questions: Ragged) -> tuple[Prediction, NDArray[np.int64]]:
        """The best span over the passages read, and the passages, [questions, passages_read].

        The best span of all passages by reader logit plus retrieval score, first of equals.
        """
        queries = self.embed_questions(questions)
        found = self.index.search(queries, self.config.passages_read)[1].cpu().numpy().astype(np.int64)
        scores = self.candidate_scores(queries, found)
        rows = self.rows(questions, found)
        spans = self.reader(rows).unflatten(0, found.shape) + scores[:, :, None, None]
        best, flat = spans.flatten(1).max(dim=1)
        length, width = spans.shape[2:]
        passage, inside = np.divmod(flat.cpu().numpy(), length * width)
        start, extra = np.divmod(inside, width)
        cut = np.minimum(questions.lengths, self.retriever.config.query_tokens - 2)
        start = start - cut - 2
        chosen = found[np.arange(len(found)), passage]
        return Prediction(chosen, start, start + extra + 1, best.cpu().numpy()), found

    def configure_optimizers(self) -> Any:
        return configure(self, self.config.training)
