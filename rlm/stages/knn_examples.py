"""What neighbours did to single tokens: the context, the token, and the contexts of its nearest neighbours."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlm.data.documents import Documents
from rlm.retrieval.knn_table import KnnTable

EACH, NEIGHBOURS, CONTEXT = 4, 4, 12
"""Tokens that gained most, that lost most, and that lie evenly over the text; neighbours shown; tokens before."""


def key_places(documents: Documents) -> NDArray[np.int64]:
    """Number of the first key of each document, and of all keys: [documents + 1]."""
    return documents.tokens.offsets - np.arange(len(documents) + 1)


class Read:
    """The text around keys.

    Args:
        texts: whose keys are numbered one after the other.
    """

    def __init__(self, texts: list[Documents]) -> None:
        self.texts, self.places = texts, [key_places(text) for text in texts]
        self.first = np.cumsum([0, *(int(places[-1]) for places in self.places)])

    def __call__(self, key: int) -> dict[str, str]:
        """The document's id, the tokens before (at most `CONTEXT`), and the token that follows."""
        part = int(np.searchsorted(self.first, key, "right")) - 1
        text, places = self.texts[part], self.places[part]
        document = int(np.searchsorted(places, key - self.first[part], "right")) - 1
        position = int(key - self.first[part] - places[document])
        tokens = text.tokens[document].astype(np.int64)
        before = tokens[max(1, position + 1 - CONTEXT) : position + 1]
        decode = text.tokenizer.decode
        return {"id": text.id(document), "context": decode(before), "token": decode(tokens[[position + 1]])}


def write_examples(
    path: Path, text: Documents, stores: list[Documents], table: KnnTable, lm: NDArray, mixed: NDArray
) -> None:
    """One JSON line a token.

    Args:
        path: to write.
        text: that was evaluated.
        stores: texts of the datastores, in their order.
        table: neighbours of the text's keys.
        lm: log p of every token by the language model.
        mixed: log p with neighbours.
    """
    asked, found = Read([text]), Read(stores)
    order = np.argsort(mixed - lm, kind="stable")
    even = np.linspace(0, len(order) - 1, EACH).astype(np.int64)
    chosen = {"gained": order[::-1][:EACH], "lost": order[:EACH], "any": even}
    with path.open("w", encoding="utf-8") as file:
        for why, tokens in chosen.items():
            for token in tokens.tolist():
                near = [
                    {**found(int(key)), "distance": float(distance)}
                    for key, distance in zip(
                        table.ids[token, :NEIGHBOURS], table.distances[token, :NEIGHBOURS], strict=True
                    )
                ]
                line = {"why": why, **asked(token), "lm": float(lm[token]), "mixed": float(mixed[token])}
                file.write(json.dumps({**line, "neighbours": near}, ensure_ascii=False) + "\n")
