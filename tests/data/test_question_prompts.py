"""Prompts, passages and answers, against each put together by hand."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from rlm.data.chunks import Chunks
from rlm.data.config import TrainedByteTokenizer
from rlm.data.documents import Documents, write_documents
from rlm.data.question_prompts import AnswerBatches, PassageTokens, answer_tokens, prompts
from rlm.data.sources import Passage
from rlm.data.tokenizer import make_tokenizer

M = 32
DOCUMENTS = [
    Passage("d0", "Ada Lovelace", "Ada Lovelace wrote the first program for the engine. " * 8),
    Passage("d1", "Café Noir", "The Café Noir of Łódź serves tea, coffee and cake."),
    Passage("d2", "a title of many words " * 12, "Nothing of this is read."),
]
QUESTIONS = ["who wrote the first program", "where is the café", "who " + "really " * 40 + "wrote it"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Chunks:
    folder = tmp_path_factory.mktemp("documents")
    texts = [document.text for document in DOCUMENTS]
    tokenizer = make_tokenizer(TrainedByteTokenizer(vocab_size=320), lambda: texts, needs=())
    write_documents(folder, DOCUMENTS, tokenizer)
    return Chunks(Documents.open(folder), M)


def passages(corpus: Chunks, *found: list[int], prompt_chunks: int = 1) -> PassageTokens:
    return PassageTokens(SimpleNamespace(ids=np.array(found)), corpus, prompt_chunks)


def test_prompts__end_where_a_chunk_ends(corpus) -> None:
    tokenizer, start = corpus.documents.tokenizer, corpus.documents.start
    ids, cut = prompts(tokenizer, QUESTIONS, 2 * M, start)
    assert (ids.shape, cut) == ((3, 2 * M), 1)
    for row, question in zip(ids[:2].tolist(), QUESTIONS, strict=False):
        written = [token for token in row if token != start]
        assert tokenizer.decode(written) == f"question: {question} \n answer:"
        assert row == [start] * (2 * M - len(written)) + written, "padded in front"
    assert tokenizer.decode(ids[2]).endswith(" really wrote it \n answer:"), "its end is kept"
    assert start not in ids[2]


def test_prompts__do_not_depend_on_each_other(corpus) -> None:
    together = prompts(corpus.documents.tokenizer, QUESTIONS, M, corpus.documents.start)[0]
    alone = [prompts(corpus.documents.tokenizer, [q], M, corpus.documents.start)[0][0] for q in QUESTIONS]
    np.testing.assert_array_equal(together, alone)


def test_answer_tokens__follow_the_prompt_and_end(corpus) -> None:
    tokenizer, end = corpus.documents.tokenizer, corpus.documents.start
    (row,) = answer_tokens(tokenizer, ["Ada Lovelace"], end, 20)
    assert row[-1] == end and tokenizer.decode(row[:-1]) == " Ada Lovelace"
    assert answer_tokens(tokenizer, ["Ada Lovelace"], end, len(row)) == [row]
    assert answer_tokens(tokenizer, ["Ada Lovelace"], end, len(row) - 1) == []


def by_hand(corpus: Chunks, chunk: int) -> tuple[list[int], str]:
    """The tokens of a passage, and the text of its source, from the documents' own tokens."""
    tokenizer, documents = corpus.documents.tokenizer, corpus.documents
    document = int(corpus.document_of(np.array([chunk]))[0])
    place = chunk - int(corpus.first[document])
    source = documents.tokens[document].tolist()[place * M : (place + 2) * M]
    source = [token for token in source if token != documents.start]
    title = tokenizer(f"title: {DOCUMENTS[document].title}, source:")["input_ids"]
    row = (title + source)[: 2 * M]
    return row, tokenizer.decode(row[len(title) :])


@pytest.mark.parametrize("prompt_chunks", [1, 3])
def test_passages__are_title_and_source_cut_to_two_chunks(corpus, prompt_chunks) -> None:
    last = len(corpus) - 1
    found = [[0, 1], [int(corpus.first[1]), last], [last, 2]]
    read = passages(corpus, *found, prompt_chunks=prompt_chunks)
    rows = np.array([2, 0, 1])
    ids, mask = read(rows)
    assert ids.shape == mask.shape == (3, prompt_chunks, 2, 2 * M)
    assert not mask[:, :-1].any(), "only the last chunk of a prompt has neighbours"
    sources = read.sources(rows)
    lengths = set()
    for place, row in enumerate(rows.tolist()):
        for rank, chunk in enumerate(found[row]):
            expected, source = by_hand(corpus, chunk)
            assert ids[place, -1, rank][mask[place, -1, rank]].tolist() == expected
            assert mask[place, -1, rank].tolist() == [True] * len(expected) + [False] * (2 * M - len(expected))
            assert sources[place][rank] == source
            lengths.add(len(expected))
    assert len(lengths) > 1 and max(lengths) == 2 * M, "some are cut, some padded"
    assert read.names(2) == ["d2#" + str(last - int(corpus.first[2])), "d0#2"]
    again = pickle.loads(pickle.dumps(PassageTokens(read.table, corpus, prompt_chunks)))
    np.testing.assert_array_equal(again(rows)[0], ids)


def test_passages__may_be_longer_than_a_neighbour(corpus) -> None:
    (ids,), (mask,) = passages(corpus, [0])(np.array([0]))
    for tokens in (len(ids[0, 0]) - 5, 3 * M):
        longer = PassageTokens(SimpleNamespace(ids=np.array([[0]])), corpus, tokens=tokens)
        (more,), (known,) = longer(np.array([0]))
        kept = min(tokens, mask.sum())
        assert more.shape == (1, 1, tokens) and known.sum() >= kept
        np.testing.assert_array_equal(more[0, 0, :kept], ids[0, 0, :kept])
    source = corpus.take(np.array(0), 2)[0][1:].tolist()
    assert more[known].tolist()[-len(source) :] == source, "all of the chunk and its continuation"


def test_batches__train_on_the_answer_and_its_end(corpus) -> None:
    asked = np.arange(3 * M).reshape(3, M)
    answers = [[[7, 8, 0]], [], [[5, 0], [6, 9, 4, 0]]]
    batches = AnswerBatches(asked, answers, passages(corpus, [0], [1], [2]), 2, seed=1)
    seen = set()
    for step in range(12):
        batch = {name: value.numpy() for name, value in batches(step, 0, 1).items()}
        for row, (ids, targets, scored) in enumerate(zip(batch["ids"], batch["targets"], batch["scored"], strict=True)):
            question = int(ids[0]) // M
            np.testing.assert_array_equal(ids[:M], asked[question])
            learnt = targets[scored].tolist()
            assert np.flatnonzero(scored).tolist() == list(range(M - 1, M - 1 + len(learnt)))
            assert ids[M : M + len(learnt) - 1].tolist() == learnt[:-1]
            neighbours = passages(corpus, [0], [1], [2])(np.array([question]))[0]
            np.testing.assert_array_equal(batch["neighbour_ids"][row], neighbours[0])
            seen.add((question, tuple(learnt)))
    assert seen == {(0, (7, 8, 0)), (2, (5, 0)), (2, (6, 9, 4, 0))}, "every answer, and no question without one"


def test_batches__are_shared_by_ranks(corpus) -> None:
    batches = AnswerBatches(np.zeros((9, M), np.int64) + np.arange(9)[:, None], [[[1, 0]]] * 9, None, 4, seed=0)
    whole = batches(3, 0, 1)["ids"].numpy()
    np.testing.assert_array_equal(np.concatenate([batches(3, rank, 2)["ids"].numpy() for rank in (0, 1)]), whole)
    assert "neighbour_ids" not in batches(0, 0, 1)


def test_batches__refuse_questions_of_which_none_has_an_answer() -> None:
    with pytest.raises(ValueError, match="none of 2 questions has an answer to train on"):
        AnswerBatches(np.zeros((2, M), np.int64), [[], []], None, 1, seed=0)
