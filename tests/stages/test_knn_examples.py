"""Where a key lies in its text, and which tokens are shown."""

import json
from pathlib import Path

import numpy as np
import pytest

from rlm.data.documents import Documents
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.knn_table import KnnTable
from rlm.stages.knn_examples import CONTEXT, EACH, NEIGHBOURS, Read, write_examples
from tests.stages.knn_world import KnnWorld, write_knn_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> KnnWorld:
    return write_knn_world(tmp_path_factory.mktemp("knn"))


def test_read__finds_every_key_of_several_texts(world: KnnWorld) -> None:
    texts = [Documents.open(world.text), Documents.open(world.measured)]
    read, decode = Read(texts), texts[0].tokenizer.decode
    wanted = []
    for text in texts:
        for number in range(len(text)):
            tokens = text.tokens[number].astype(np.int64)
            for position in range(len(tokens) - 1):
                before = tokens[1 : position + 1][-CONTEXT:]
                wanted.append((text.id(number), decode(before), decode(tokens[[position + 1]])))
    values = [Datastore.open(folder / "datastore") for folder in (world.datastore, world.queries)]
    assert len(wanted) == sum(map(len, values))
    for key in range(0, len(wanted), 13):
        found = read(key)
        assert (found["id"], found["context"], found["token"]) == wanted[key]


def test_examples__are_those_that_gained_and_lost_most(world: KnnWorld, tmp_path: Path) -> None:
    table, text, store = KnnTable.open(world.search), Documents.open(world.measured), Documents.open(world.text)
    rng = np.random.default_rng(0)
    lm, mixed = (-rng.uniform(0, 5, len(table)) for _ in range(2))
    write_examples(tmp_path / "examples.jsonl", text, [store], table, lm, mixed)
    lines = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    assert [line["why"] for line in lines] == ["gained"] * EACH + ["lost"] * EACH + ["any"] * EACH
    order = np.argsort(mixed - lm)
    for line, token in zip(lines, [*order[::-1][:EACH], *order[:EACH]], strict=False):
        assert (line["lm"], line["mixed"]) == (lm[token], mixed[token])
        near = line["neighbours"]
        assert [each["distance"] for each in near] == table.distances[token, :NEIGHBOURS].tolist()
        assert [each["token"] for each in near] == [
            store.tokenizer.decode([int(value)]) for value in table.tokens[token, :NEIGHBOURS]
        ]
