"""The papers' equations in float64: Hugging Face's modules called directly, one row at a time, without padding."""

import copy

import torch
from torch import Tensor


class Reference:
    """Twins in float64 of a dual encoder and a masked language model; gradients land in their own parameters."""

    def __init__(self, corpus, retriever, encoder=None):
        self.corpus, self.special = corpus, corpus.special
        self.retriever = copy.deepcopy(retriever).double()
        self.model = None if encoder is None else copy.deepcopy(encoder.model).double()

    def row(self, *parts) -> tuple[Tensor, Tensor]:
        """Ids and segments of `[CLS] part [SEP] part [SEP]`, each [1, length]."""
        ids, segments = [self.special.cls], [0]
        for place, part in enumerate(parts):
            ids += [*(int(piece) for piece in part), self.special.sep]
            segments += [min(place, 1)] * (len(part) + 1)
        return torch.tensor([ids]), torch.tensor([segments])

    def embed(self, *parts) -> Tensor:
        """LayerNorm(W h_cls + b) with Keras's epsilon, [dim]."""
        ids, segments = self.row(*parts)
        vector = self.retriever.encoder(input_ids=ids, token_type_ids=segments).last_hidden_state[0, 0]
        projected = self.retriever.projection.weight @ vector + self.retriever.projection.bias
        centred = projected - projected.mean()
        scaled = centred / (centred.square().mean() + 1e-3).sqrt()
        return scaled * self.retriever.layer_norm.weight + self.retriever.layer_norm.bias

    def passage(self, row: int, limit: int) -> Tensor:
        """Embedding of a passage of at most `limit` word pieces, special tokens included, [dim]."""
        title = self.corpus.titles[row][: limit - 3]
        return self.embed(title, self.corpus.tokens[row][: limit - 3 - len(title)])

    @torch.no_grad()
    def passages(self, limit: int) -> Tensor:
        """Of the whole corpus, [passages, dim]."""
        return torch.stack([self.passage(row, limit) for row in range(len(self.corpus))])

    def hidden(self, question, body) -> Tensor:
        """[length, hidden]"""
        ids, segments = self.row(question, body)
        return self.model.bert(input_ids=ids, token_type_ids=segments).last_hidden_state[0]

    def log_likelihood(self, sentence, body, positions, targets) -> Tensor:
        """log p(y_j | z, x) of each masked word piece, [masks]."""
        ids, segments = self.row(sentence, body)
        log_p = self.model(input_ids=ids, token_type_ids=segments).logits[0].log_softmax(-1)
        return torch.stack([log_p[1 + int(p), int(y)] for p, y in zip(positions, targets, strict=True)])


class SpanReference(Reference):
    """With a span reader: every span of every passage, one by one (ORQA, section 5)."""

    def __init__(self, corpus, retriever, reader):
        super().__init__(corpus, retriever, reader.encoder)
        self.reader = copy.deepcopy(reader).double()
        self.model = self.reader.encoder.model

    def spans(self, question, body) -> dict[tuple[int, int], Tensor]:
        """Logit of each span of word pieces of a body, by its start and exclusive end."""
        reader, hidden = self.reader, self.hidden(question, body)[len(question) + 2 : -1]
        found = {}
        for start in range(len(body)):
            for end in range(start + 1, min(start + reader.max_span, len(body)) + 1):
                joined = reader.start.weight @ hidden[start] + reader.start.bias + reader.end.weight @ hidden[end - 1]
                active = joined.clamp(min=0)
                centred = active - active.mean()
                normal = centred / (centred.square().mean() + 1e-3).sqrt() * reader.norm.weight + reader.norm.bias
                found[start, end] = reader.output.weight[0] @ normal + reader.output.bias[0]
        return found

    def scored_spans(self, question, passages, embeddings, limit) -> dict[tuple[int, int, int], Tensor]:
        """Logit plus retrieval score of every span of the passages, by passage, start and end."""
        query = self.embed(question)
        return {
            (int(z), *span): logit + query @ embeddings[z]
            for z in passages
            for span, logit in self.spans(question, self.corpus.tokens[int(z)][: limit - 2]).items()
        }


def best(scores, k, allowed=lambda row: True) -> list[int]:
    """Rows of the k highest scores, ties by row."""
    return [row for _, row in sorted((-score, row) for row, score in enumerate(scores.tolist()) if allowed(row))][:k]
