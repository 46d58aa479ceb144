"""The stages from documents to neighbours, against chunks decoded, encoded and compared one by one in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from rlm.data.chunks import Chunks
from rlm.data.config import DocumentsConfig, EncyclopediaSource, TrainedTokenizer
from rlm.data.documents import Documents, write_documents
from rlm.data.encyclopedia import passages
from rlm.data.sources import Passage
from rlm.data.tokenizer import make_tokenizer
from rlm.errors import ConfigError
from rlm.retrieval import chunk_encoder, neighbours
from rlm.retrieval.bfloat16 import has_fast_bfloat16
from rlm.retrieval.config import (
    Bm25,
    ChunkEncoderConfig,
    ChunkIndexConfig,
    NeighboursConfig,
    PretrainedEncoder,
    ScratchEncoder,
)
from rlm.retrieval.encoder import DualEncoder
from rlm.retrieval.neighbours import NeighbourTable
from rlm.stages import chunk_index as chunk_index_stage
from rlm.stages import documents as documents_stage
from rlm.stages import neighbours as neighbours_stage
from rlm.stages.neighbours import open_windows
from tests.worlds import Surroundings

SOURCE = EncyclopediaSource(entities=40)
NEWS = EncyclopediaSource(entities=40, stream="news")
M = 16
SCRATCH = ChunkEncoderConfig(
    encoder=ScratchEncoder(layers=1, hidden_size=32, heads=2, max_positions=64, initial_std=0.3)
)


def documents(folder: Path, source, tokenizer: Path | None = None, **settings) -> Path:
    folder.mkdir(parents=True)
    config = {"documents": DocumentsConfig(source=source, join="by_id_prefix", **settings)}
    if tokenizer is None:
        config["tokenizer"] = TrainedTokenizer(vocab_size=500)
    documents_stage.run(config, {} if tokenizer is None else {"tokenizer": tokenizer}, folder, Surroundings())
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return documents(tmp_path_factory.mktemp("stages") / "documents-corpus", SOURCE)


@pytest.fixture(scope="module")
def news(corpus, tmp_path_factory) -> Path:
    return documents(tmp_path_factory.mktemp("stages") / "documents-news", NEWS, corpus)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A BERT with a vocabulary of its own."""
    folder = tmp_path_factory.mktemp("bert")
    texts = [passage.text for passage in passages(SOURCE)]
    tokenizer = make_tokenizer(TrainedTokenizer(vocab_size=300), lambda: texts)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        initializer_range=0.3,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def chunk_index(folder: Path, corpus: Path, config: ChunkIndexConfig, context=None) -> Path:
    folder.mkdir(exist_ok=True)
    chunk_index_stage.run(config, {"corpus": corpus}, folder, context or Surroundings())
    return folder


def find(folder: Path, text: Path, corpus: Path, index: Path, k: int, context=None) -> Path:
    folder.mkdir(exist_ok=True)
    inputs = {"text": text, "corpus": corpus, "index": index}
    neighbours_stage.run(NeighboursConfig(k=k), inputs, folder, context or Surroundings())
    return folder


def embedded_by_hand(model, chunks: Chunks, tokenizer) -> np.ndarray:
    """The mean of the vectors of [CLS], the chunk's word pieces and [SEP], of length 1."""
    own, rows = chunks.documents.tokenizer, []
    for c in range(len(chunks)):
        ids, mask = chunks.take(np.array([c]))
        tokens = [token for token in ids[0][mask[0]].tolist() if token != own.cls_token_id]
        text = own.decode(tokens).removeprefix("##")
        own_ids = [own.cls_token_id, *tokens, own.sep_token_id]
        with torch.no_grad():
            pieces = torch.tensor([own_ids if tokenizer is own else tokenizer(text)["input_ids"]])
            hidden = model.eval()(pieces, token_type_ids=torch.zeros_like(pieces)).last_hidden_state[0]
        mean = hidden.double().mean(0)
        rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


def check_nearest(table: NeighbourTable, asked: np.ndarray, held: np.ndarray, same: np.ndarray) -> None:
    """Each found one is allowed, and as near as the best, as far as bfloat16 (where it is used) tells."""
    k, scores = table.ids.shape[1], np.where(same, -np.inf, asked @ held.T)
    found = np.take_along_axis(scores, np.asarray(table.ids), 1)
    close = 2e-2 if has_fast_bfloat16(torch.device("cpu")) else 1e-4
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, -np.sort(-scores, axis=1)[:, :k], atol=close)
    np.testing.assert_allclose(found, table.scores, atol=close)
    assert all(len(set(row)) == k for row in table.ids.tolist())


def same_document(text: Chunks, corpus: Chunks) -> np.ndarray:
    return np.array(
        [
            [
                text.documents.id(a) == corpus.documents.id(b) and text.documents.title(a) == corpus.documents.title(b)
                for b in corpus.document_of(np.arange(len(corpus)))
            ]
            for a in text.document_of(np.arange(len(text)))
        ]
    )


def test_neighbours__of_a_pretrained_encoder_with_other_word_pieces(corpus, news, bert, tmp_path) -> None:
    encoder = ChunkEncoderConfig(encoder=PretrainedEncoder(name=str(bert)))
    index = chunk_index(tmp_path / "chunk_index-1", corpus, ChunkIndexConfig(chunk_tokens=M, encoder=encoder))
    text, held = (Chunks(Documents.open(folder), M) for folder in (news, corpus))
    table = NeighbourTable.open(find(tmp_path / "neighbours-1", news, corpus, index, 3), 3, corpus="documents-corpus")
    tokenizer, model = chunk_index_stage.open_tokenizer(bert), BertModel.from_pretrained(bert)
    asked, found = (embedded_by_hand(model, chunks, tokenizer) for chunks in (text, held))
    check_nearest(table, asked, found, np.zeros((len(text), len(held)), bool))


def test_neighbours__of_a_text_among_its_own_chunks(corpus, tmp_path) -> None:
    index = chunk_index(tmp_path / "chunk_index-1", corpus, ChunkIndexConfig(chunk_tokens=M, encoder=SCRATCH))
    chunks = Chunks(Documents.open(corpus), M)
    table = NeighbourTable.open(find(tmp_path / "neighbours-1", corpus, corpus, index, 4), 4, text="documents-corpus")
    model = DualEncoder.load(index / "encoder").encoder
    embeddings = embedded_by_hand(model, chunks, chunks.documents.tokenizer)
    check_nearest(table, embeddings, embeddings, same_document(chunks, chunks))


def test_neighbours__by_bm25(corpus, news, tmp_path) -> None:
    index = chunk_index(tmp_path / "chunk_index-1", corpus, ChunkIndexConfig(chunk_tokens=M, index=Bm25()))
    folder = find(tmp_path / "neighbours-1", news, corpus, index, 2)
    table = NeighbourTable.open(folder, 2, encoder="none (bm25)")
    text, held = (Chunks(Documents.open(each), M) for each in (news, corpus))
    pieces = [
        [set(row[keep].tolist()) for row, keep in zip(*chunks.take(np.arange(len(chunks))), strict=True)]
        for chunks in (text, held)
    ]
    shared = [len(a & pieces[1][found]) for a, found in zip(pieces[0], table.ids[:, 0], strict=True)]
    anywhere = [np.mean([len(a & b) for b in pieces[1]]) for a in pieces[0]]
    assert np.mean(shared) > 2 * np.mean(anywhere)


class Stops(Surroundings):
    """Raises when the stage has reported twice."""

    def progress(self, done, total, **shown):
        super().progress(done, total, **shown)
        if len(self.shown) == 2:
            raise RuntimeError("killed")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_stages__when_killed_go_on_with_the_same_result(corpus, news, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(chunk_encoder.write_embeddings, "__defaults__", (None, 32))
    monkeypatch.setattr(neighbours.write_neighbours, "__defaults__", (None, 32, str))
    config = ChunkIndexConfig(chunk_tokens=M, encoder=SCRATCH)
    with pytest.raises(RuntimeError, match="killed"):
        chunk_index(tmp_path / "chunk_index-1", corpus, config, Stops())
    context = Surroundings()
    index = chunk_index(tmp_path / "chunk_index-1", corpus, config, context)
    assert context.shown[0][0] == 96
    (tmp_path / "whole").mkdir()
    whole = chunk_index(tmp_path / "whole" / "chunk_index-1", corpus, config)
    assert contents(index) == contents(whole)
    with pytest.raises(RuntimeError, match="killed"):
        find(tmp_path / "neighbours-1", news, corpus, index, 2, Stops())
    context = Surroundings()
    broken = find(tmp_path / "neighbours-1", news, corpus, index, 2, context)
    assert context.shown[0][0] == 96
    assert contents(broken) == contents(find(tmp_path / "whole" / "neighbours-1", news, corpus, whole, 2))


def test_neighbours__refuses_what_does_not_fit(corpus, news, bert, tmp_path) -> None:
    index = chunk_index(tmp_path / "chunk_index-1", corpus, ChunkIndexConfig(chunk_tokens=M, index=Bm25()))
    with pytest.raises(ValueError, match="an index of documents-corpus, not of documents-news"):
        find(tmp_path / "other", news, news, index, 2)
    foreign = documents(tmp_path / "documents-foreign", EncyclopediaSource(entities=30, world_seed=5))
    with pytest.raises(ValueError, match="different tokenizers"):
        find(tmp_path / "foreign", foreign, corpus, index, 2)
    alone = tmp_path / "documents-alone"
    alone.mkdir()
    write_documents(alone, [Passage("one", "", "Only one text. " * 20)], Documents.open(corpus).tokenizer)
    own = chunk_index(tmp_path / "chunk_index-2", alone, ChunkIndexConfig(chunk_tokens=M, index=Bm25()))
    with pytest.raises(ValueError, match=r"first: one\).*it is the same document"):
        find(tmp_path / "alone", alone, alone, own, 1)
    with pytest.raises(ConfigError, match="has no `encoder`"):
        chunk_index(tmp_path / "chunk_index-3", corpus, ChunkIndexConfig(chunk_tokens=M))
    assert json.loads((index / "chunk_index.json").read_text())["chunk_tokens"] == M


def test_open_windows__reads_what_the_stages_wrote(corpus, news, tmp_path) -> None:
    index = chunk_index(tmp_path / "chunk_index-1", corpus, ChunkIndexConfig(chunk_tokens=M, index=Bm25()))
    found = find(tmp_path / "neighbours-1", news, corpus, index, 3)
    inputs = {"text": news, "corpus": corpus, "neighbours": found}
    batch = open_windows(inputs, 48, M, k=2).batch(np.arange(4))
    table, held = NeighbourTable.open(found, 3), Chunks(Documents.open(corpus), M)
    for row, column in zip(*np.nonzero(batch["chunks"].numpy() >= 0), strict=True):
        chunk = int(batch["chunks"][row, column])
        ids, mask = held.take(table.ids[chunk, :2], 2)
        np.testing.assert_array_equal(batch["neighbour_ids"][row, column].numpy(), ids)
        np.testing.assert_array_equal(batch["neighbour_mask"][row, column].numpy(), mask)
    assert (batch["chunks"] >= 0).sum() > 4
    for settings in ({"k": 0}, {"k": 2, "part": "none"}):
        assert "neighbour_ids" not in open_windows(inputs, 48, M, **settings).batch(np.arange(4))
    with pytest.raises(ValueError, match=r"another chunk_tokens \(chunk_tokens: computed with 16, opened with 8\)"):
        open_windows(inputs, 48, 8, k=2)
    with pytest.raises(ValueError, match=r"another text, corpus \(text: computed with documents-news, opened with"):
        open_windows({**inputs, "text": corpus, "corpus": news}, 48, M, k=2)
    with pytest.raises(ValueError, match="k = 4 neighbours .* which holds 3"):
        open_windows(inputs, 48, M, k=4)
    with pytest.raises(ValueError, match="not longer than one chunk"):
        open_windows(inputs, 16, M, k=2)
