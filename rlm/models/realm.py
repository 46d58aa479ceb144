"""REALM pre-training (Guu et al. 2020, 2002.08909): masked tokens predicted from retrieved passages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM

from rlm.data.corpus import Corpus
from rlm.data.datamodules import passage_batch, to_tensors
from rlm.data.pretrained import load_model
from rlm.data.tokens import Ragged, join
from rlm.models.config import PretrainConfig
from rlm.models.marginal import marginal_log_likelihood
from rlm.models.optimizer import configure
from rlm.retrieval.config import EncoderConfig, ScratchEncoder
from rlm.retrieval.encoder import FAILURE, FIELD, DualEncoder, embed_queries, encoder_config
from rlm.retrieval.index import Index, search_excluding
from rlm.retrieval.realm_checkpoint import is_realm, read_realm

Loss = Literal["per_token", "joint"]


def masked_language_model(config: EncoderConfig, vocab_size: int) -> BertForMaskedLM:
    """A BERT with its masked-token head, from scratch or from a checkpoint.

    Raises:
        ValueError: the checkpoint is not a BERT, or its vocabulary is not the corpus's.
    """
    found = encoder_config(config, vocab_size)
    if isinstance(config, ScratchEncoder):
        assert isinstance(found, BertConfig)
        return BertForMaskedLM(found)
    if not isinstance(found, BertConfig) or found.is_decoder:
        kind = "bert that reads one side" if isinstance(found, BertConfig) else found.model_type
        raise ValueError(f"{config.name} is a {kind}, not a bert; name a BERT checkpoint")
    if is_realm(found):
        return read_realm(BertForMaskedLM(found), config, FIELD, FAILURE, untrained="cls.")
    return load_model(BertForMaskedLM, config, FIELD, FAILURE, untrained="cls.", config=found, dtype=torch.float32)


class KnowledgeAugmentedEncoder(nn.Module):
    """p(y | z, x): masked word pieces of a sentence, read beside a passage."""

    def __init__(self, config: EncoderConfig, vocab_size: int) -> None:
        super().__init__()
        self.model = masked_language_model(config, vocab_size)

    @property
    def max_positions(self) -> int:
        return self.model.config.max_position_embeddings

    def hidden(self, ids: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
        """Contextual vectors, [rows, length, hidden]; a checkpoint with one kind of segment is given zeros."""
        if self.model.config.type_vocab_size < 2:
            segments = torch.zeros_like(segments)
        output = self.model.bert(input_ids=ids, attention_mask=mask, token_type_ids=segments)
        return output.last_hidden_state

    def forward(self, rows: dict[str, Tensor], positions: Tensor, targets: Tensor) -> Tensor:
        """log p of each masked word piece.

        Args:
            rows: ids, mask and segments of `[CLS] sentence [SEP] passage [SEP]`, each [batch * passages, length].
            positions: of masked word pieces in the sentence, -1 beyond, [batch, masks].
            targets: their vocabulary ids, [batch, masks].

        Returns:
            [batch, passages, masks]; 0 where `positions` is -1.
        """
        batch, masks = positions.shape
        hidden = self.hidden(**rows)
        hidden = hidden.unflatten(0, (batch, -1))
        row, column = torch.nonzero(positions >= 0, as_tuple=True)
        # The head is most of a small model's work: only on masked word pieces, [masked, passages, hidden]. 1 for [CLS].
        logits = self.model.cls(hidden[row, :, positions[row, column] + 1]).float()
        index = targets[row, column].view(-1, 1, 1).expand(-1, logits.shape[1], -1)
        log_p = logits.gather(2, index).squeeze(2) - logits.logsumexp(dim=2)
        return log_p.new_zeros(batch, masks, hidden.shape[1]).index_put((row, column), log_p).transpose(1, 2)


def reader_rows(
    queries: Ragged, corpus: Corpus, passages: NDArray[np.int64], limit: int, null: bool
) -> dict[str, Tensor]:
    """`[CLS] query [SEP] body [SEP]` for each query and each of its passages; the title is left out (released code).

    Args:
        queries: word pieces, one row a query.
        corpus: where the passages are.
        passages: ids, [batch, passages].
        limit: word pieces of a passage with two special tokens, so that a row is as long as both limits together.
        null: put the null passage (an empty body) first.

    Returns:
        ids, mask and segments, each [batch * passages, length].
    """
    batch, count = passages.shape
    bodies = corpus.tokens.take(passages.ravel(), limit - 2)
    if null:
        lengths = np.concatenate([np.zeros((batch, 1), np.int64), bodies.lengths.reshape(batch, count)], axis=1)
        bodies = Ragged(bodies.values, np.concatenate([[0], np.cumsum(lengths)]))
        count += 1
    return to_tensors(join([queries.take(np.repeat(np.arange(batch), count)), bodies], corpus.special))


@dataclass(frozen=True)
class Retrieval:
    """What the live retriever says of the candidates of a batch of sentences."""

    passages: NDArray[np.int64]
    """Ids without the null passage, [batch, candidates]."""
    scores: Tensor
    """f(x, z) with gradient; column 0 is the null passage where there is one, [batch, candidates (+ 1)]."""


class Realm(pl.LightningModule):
    """Retriever and knowledge-augmented encoder, trained together on the marginal likelihood of masked tokens.

    The index only proposes candidates; their scores are recomputed with the live retriever, so that gradients reach
    both of its sides. `index` is set by the IndexRefresh callback.
    """

    index: Index
    index_step: int

    def __init__(
        self, retriever: DualEncoder, encoder: KnowledgeAugmentedEncoder, corpus: Corpus, config: PretrainConfig
    ) -> None:
        super().__init__()
        self.retriever, self.encoder, self.corpus, self.config = retriever, encoder, corpus, config

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}

    def embed_queries(self, queries: Ragged) -> Tensor:
        """With gradient, [batch, dim]."""
        rows = to_tensors(join([queries], self.corpus.special))
        return self.retriever.embed_query(rows["ids"].to(self.device), rows["mask"].to(self.device))

    def score(self, queries: Tensor, passages: NDArray[np.int64]) -> Tensor:
        """f(x, z) with gradient for [batch, candidates] passages, the null passage's first where it is used.

        Each distinct passage of the batch is embedded once, and cut where the index cuts it.
        """
        distinct, inverse = np.unique(passages, return_inverse=True)
        bodies = self.corpus.tokens.take(distinct)
        limit = self.retriever.config.passage_tokens
        rows = to_tensors(passage_batch(self.corpus, bodies, distinct, limit))
        embeddings = self.retriever.embed_passage(**{name: value.to(self.device) for name, value in rows.items()})
        where = torch.from_numpy(inverse.reshape(passages.shape)).to(self.device)
        # [batch, candidates]
        scores = torch.einsum("bd,bkd->bk", queries.float(), embeddings.float()[where])
        if self.config.null_passage:
            scores = torch.cat([(queries.float() @ self.null_embedding().float()).unsqueeze(1), scores], dim=1)
        return scores

    def null_embedding(self) -> Tensor:
        """Embedding of the null passage `[CLS] [SEP] [SEP]`, [dim]."""
        empty = Ragged(np.zeros(0, np.int64), np.zeros(2, np.int64))
        rows = to_tensors(join([empty, empty], self.corpus.special))
        return self.retriever.embed_passage(**{name: value.to(self.device) for name, value in rows.items()})[0]

    def retrieve(self, queries: Ragged, source: NDArray[np.uint64] | None) -> Retrieval:
        """Candidates from the index, scored by the live retriever."""
        embeddings = self.embed_queries(queries)
        count = self.config.candidates - self.config.null_passage
        found = embeddings.detach().float()
        if source is None or not self.config.exclude_source:
            passages = self.index.search(found, count)[1]
        else:
            passages = search_excluding(self.index, found, count, source, self.corpus.identity)[1]
        ids = np.asarray(passages.cpu(), dtype=np.int64)
        return Retrieval(ids, self.score(embeddings, ids))

    def log_likelihood(self, batch: dict[str, Any], passages: NDArray[np.int64]) -> Tensor:
        """log p(y_j | z, x), the null passage first where it is used, [batch, candidates, masks]."""
        config = self.config
        rows = reader_rows(batch["masked"], self.corpus, passages, config.passage_tokens, config.null_passage)
        rows = {name: value.to(self.device) for name, value in rows.items()}
        return self.encoder(rows, batch["positions"], batch["targets"])

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        retrieval = self.retrieve(batch["masked"], batch["source"])
        likelihood = self.log_likelihood(batch, retrieval.passages)
        mask = batch["positions"] >= 0
        kind = self.config.marginal
        log_p = marginal_log_likelihood(retrieval.scores, likelihood, mask, kind)
        count = mask.sum() if kind == "per_token" else torch.tensor(len(mask), device=self.device)
        if self.trainer.world_size > 1:  # the mean is over the masked tokens of all ranks
            count = self.trainer.strategy.reduce(count.float(), reduce_op="mean")
        loss = -log_p.sum() / count.clamp(min=1)
        prior = retrieval.scores.detach().softmax(dim=1)
        metrics = {
            "loss": loss.detach(),
            "entropy": -(prior * prior.clamp(min=1e-12).log()).sum(dim=1).mean(),
            "index_age": float(self.global_step - self.index_step),
            "masked_tokens": mask.sum().float() / len(mask),
        }
        if self.config.null_passage:
            null = likelihood[:, 0].detach() * mask
            null = null if kind == "per_token" else null.sum(dim=1)
            metrics["retrieval_utility"] = (log_p.detach() - null).sum() / count.clamp(min=1)
            metrics["null_mass"] = prior[:, 0].mean()
        self.log_dict(metrics, sync_dist=True, batch_size=len(mask))
        return loss

    def configure_optimizers(self) -> Any:
        return configure(self, self.config.training)

    def top(self, queries: Ragged, k: int) -> NDArray[np.int64]:
        """Ids of the k best passages by the live query encoder and the current index, [queries, k]."""
        embeddings = embed_queries(self.retriever, queries, self.corpus.special)
        return self.index.search(embeddings.to(self.device), k)[1].cpu().numpy()

    def rescored_top(self, queries: Ragged, k: int, wider: int = 4) -> NDArray[np.int64]:
        """The same, of `wider` * k candidates re-scored by the live passage encoder, [queries, k]."""
        candidates = self.top(queries, min(wider * k, len(self.corpus)))
        embeddings = embed_queries(self.retriever, queries, self.corpus.special).to(self.device)
        with torch.inference_mode():
            scores = self.score(embeddings, candidates)[:, int(self.config.null_passage) :]
        best = scores.topk(k, dim=1).indices.cpu().numpy()
        return np.take_along_axis(candidates, best, axis=1)


class GivenPassage(pl.LightningModule):
    """Masked tokens read beside one given passage: trains the encoder and its head before retrieval does."""

    def __init__(self, encoder: KnowledgeAugmentedEncoder, training: Any) -> None:
        super().__init__()
        self.encoder, self.training_config = encoder, training

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        moved = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
        return {**batch, **moved, "rows": {name: value.to(device) for name, value in batch["rows"].items()}}

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        mask = batch["positions"] >= 0
        log_p = self.encoder(batch["rows"], batch["positions"], batch["targets"]).squeeze(1)
        count = mask.sum().float()
        if self.trainer.world_size > 1:
            count = self.trainer.strategy.reduce(count, reduce_op="mean")
        loss = -(log_p * mask).sum() / count.clamp(min=1)
        self.log_dict({"loss": loss, "masked_tokens": mask.sum().float() / len(mask)}, sync_dist=True)
        return loss

    def configure_optimizers(self) -> Any:
        return configure(self, self.training_config)


def save_encoder(encoder: KnowledgeAugmentedEncoder, folder: Path) -> None:
    """Write the encoder with its head as a Hugging Face checkpoint (safetensors)."""
    encoder.model.save_pretrained(folder)


def load_encoder(folder: Path) -> KnowledgeAugmentedEncoder:
    """Read what `save_encoder` wrote."""
    encoder = KnowledgeAugmentedEncoder.__new__(KnowledgeAugmentedEncoder)
    nn.Module.__init__(encoder)
    encoder.model = BertForMaskedLM.from_pretrained(folder)
    return encoder
