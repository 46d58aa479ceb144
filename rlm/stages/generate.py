"""What a trained RETRO writes, shown as it comes, and the neighbours that it read."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from rlm.build import build
from rlm.config import Runtime
from rlm.data.chunks import Chunks
from rlm.data.documents import Documents
from rlm.data.text_windows import NeighbourTokens, Part
from rlm.data.tokenizer import encode, stream_text
from rlm.data.tokens import Ragged
from rlm.errors import ConfigError
from rlm.models.generation import Sampling, generate
from rlm.models.retro import Neighbours
from rlm.models.retro_config import RetroConfig
from rlm.models.retro_training import load_retro
from rlm.retrieval.index import Search
from rlm.stages.chunk_index import open_search
from rlm.stages.retro_train import WEIGHTS
from rlm.stages.runs import config_part, input_folder
from rlm.stages.store import read_record
from rlm.stages.training import accelerator
from rlm.yaml_file import Document

SHOWN = 70
"""Characters of a chunk."""


@dataclass(slots=True)
class Found:
    """What was found for some chunks."""

    asked: Ragged
    """Tokens of each chunk, without the start token."""
    scores: NDArray[np.float32]
    """[chunks, k], best first."""
    ids: NDArray[np.int64]
    """Chunks of the corpus, [chunks, k]."""


class LookUp:
    """Searches for the neighbours of chunks of one text, in their order, and remembers what it found.

    Args:
        search: of rows of tokens.
        corpus: chunks that are found.
        k: neighbours of each chunk.
        part: of a neighbour, that is read.

    Raises:
        ConfigError: the corpus has fewer chunks than k.
    """

    def __init__(self, search: Callable[[Ragged], Search], corpus: Chunks, k: int, part: Part) -> None:
        if k > len(corpus):
            raise ConfigError(f"{k} neighbours of a retrieval corpus of {len(corpus)} chunks; ask for fewer")
        self.search, self.corpus, self.k, self.part = search, corpus, k, part
        self.found: list[Found] = []

    def __call__(self, chunks: Tensor) -> Neighbours:
        """Neighbours [1, chunks, k, r] of tokens [chunks, chunk tokens]; the text's first token is its start token."""
        rows = list(chunks.cpu().numpy())
        if not self.found:
            rows[0] = rows[0][1:]
        asked, numbers = Ragged.from_rows(rows), np.arange(len(rows))
        scores, ids = (each.cpu().numpy() for each in self.search(asked)(numbers, self.k))
        self.found.append(Found(asked, scores, ids))
        read = NeighbourTokens(self.found[-1], self.corpus, self.part)(numbers[None])
        return Neighbours(*(torch.from_numpy(each).to(chunks.device) for each in read))

    def lines(self) -> Iterator[str]:
        """Each chunk, and its neighbours: score, id and title of the document, chunk and continuation."""
        documents, m, number = self.corpus.documents, self.corpus.chunk_tokens, 0

        def text(tokens: NDArray[np.int64]) -> str:
            decoded = documents.tokenizer.backend_tokenizer.decode(tokens.tolist())
            return f'"{shortened(decoded)}"'

        for found in self.found:
            for row, (scores, ids) in enumerate(zip(found.scores, found.ids, strict=True)):
                number += 1
                yield f"chunk {number}: {text(found.asked[row])}"
                tokens, mask = self.corpus.take(ids, 2)
                for n, document in enumerate(self.corpus.document_of(ids).tolist()):
                    name = shortened(f"{documents.id(document)} ({documents.title(document)})")
                    parts = (text(tokens[n, half][mask[n, half]]) for half in (slice(m), slice(m, None)))
                    yield f"  {scores[n]:.3f}  {name}: {' -> '.join(parts)}"


def shortened(text: str) -> str:
    """On one line, of at most `SHOWN` characters."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."


def open_look_up(store: Path, record: Mapping[str, Any], m: int, k: int, device: str) -> LookUp:
    """Searches what the neighbours of a finished `retro_train` or `perplexity` stage were found in.

    Args:
        store: folder of results.
        record: of the stage.
        m: tokens of a chunk.
        k: neighbours of each chunk.
        device: of encoder and index.
    """
    corpus = Chunks(Documents.open(input_folder(store, record, "corpus")), m)
    index = input_folder(store, read_record(input_folder(store, record, "neighbours")), "index")
    return LookUp(open_search(index, corpus, device), corpus, k, _setting(record, "part"))


def _setting(record: Mapping[str, Any], name: str) -> Any:
    """How a `retro_train` or `perplexity` stage read its text."""
    return config_part(record, "train" if record["name"] == "retro_train" else "evaluate", name)


def generate_text(
    store: Path, folder: Path, prompt: str, tokens: int, sampling: Sampling, seed: int = 0, k: int | None = None
) -> None:
    """Print a prompt and what follows it, as it comes, then the neighbours of every finished chunk.

    Args:
        store: folder of results.
        folder: of a finished `retro_train` or `perplexity` stage.
        prompt: may be empty.
        tokens: generated at most.
        sampling: of each token.
        seed: of what is drawn.
        k: neighbours of each chunk; None takes as many as the stage read, 0 is RETRO[Off].

    Raises:
        ConfigError: neighbours for a model that was trained without, more than the corpus has chunks, a prompt longer
            than the decoder's positions, or an input that is gone.
    """
    record = read_record(folder)
    trained = folder if record["name"] == "retro_train" else input_folder(store, record, "model")
    training = read_record(trained)
    source = next((each for each in (record, training) if "neighbours" in each["inputs"]), None)
    if k and source is None:
        raise ConfigError(f"--neighbours {k}: {trained.name} was trained without neighbours; leave the option out")
    k = _setting(record, "k") if k is None else k
    config = build(RetroConfig, Document(config_part(training, "model")))
    documents, device = Documents.open(input_folder(store, training, "text")), accelerator(Runtime())
    look_up = open_look_up(store, source, config.chunk_tokens, k, device) if source is not None and k else None
    model = load_retro(config, documents.vocab_size, trained / WEIGHTS).to(device)
    own = encode(documents.tokenizer, [prompt])[0]
    _check_length(1 + len(own), tokens, model.decoder.positions, config_part(training, "train", "tokens"))
    ids = torch.tensor([documents.start, *own], device=device)
    generator = torch.Generator(device).manual_seed(seed)
    following = generate(model, ids, look_up, tokens, sampling, generator, end_tokens(documents))
    for text in stream_text(documents.tokenizer, chain(own, following)):
        print(text, end="", flush=True)
    print("\n")
    console = Console(highlight=False, markup=False, emoji=False)
    if source is None:
        lines = [f"no neighbours: {trained.name} was trained without"]
    elif look_up is None:
        lines = ["no neighbours: switched off"]
    else:
        lines = list(look_up.lines()) or [f"no neighbours: no chunk of {config.chunk_tokens} tokens was finished"]
    for line in lines:
        console.print(line, style="dim", soft_wrap=True)


def end_tokens(documents: Documents) -> set[int]:
    """That end a document, or start the next."""
    named = (getattr(documents.tokenizer, f"{name}_token_id", None) for name in ("eos", "sep"))
    return {documents.start, *(token for token in named if token is not None)}


def _check_length(prompt: int, tokens: int, positions: int | None, window: int) -> None:
    """Says what is too long.

    Args:
        prompt: its tokens, the start token among them.
        tokens: wanted.
        positions: of the decoder.
        window: tokens that the model was trained to read.

    Raises:
        ConfigError: the prompt itself is.
    """
    if positions is not None and prompt > positions:
        raise ConfigError(f"a prompt of {prompt} tokens, but the decoder has {positions} positions; shorten it")
    note = None
    if positions is not None and prompt + tokens > positions + 1:
        note = f"the text ends after {positions + 1 - prompt} tokens: the decoder has {positions} positions"
    elif prompt + tokens > window + 1:
        note = f"the text grows beyond {window} tokens, the most that the model was trained to read"
    if note:
        print(f"rlm generate: {note}", file=sys.stderr)
