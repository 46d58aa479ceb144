"""FarmHash against values of Google's implementation (pyfarmhash 0.5.1, TensorFlow's documentation)."""

from pathlib import Path

import pytest

from rlm.data.farmhash import fingerprint64
from rlm.data.hub import orqa_dev
from rlm.data.qa import read_questions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 11160318154034397263),
        ("a", 12917804110809363939),
        ("Paris", 5711262949473805650),
        ("who was it?", 4679280052592771453),
        ("a" * 20, 15065261471293997870),
        ("what is the name of justin bieber brother?", 5357744721705845138),
        ("x" * 64, 6916188127298655160),
        ("x" * 65, 4935023790501551929),
        ("é" * 70, 5892093052588217999),
        ("y" * 200, 577833072005583796),
    ],
)
def test_fingerprint64__equals_googles(text: str, expected: int):
    assert fingerprint64(text) == expected


def test_fingerprint64__gives_the_buckets_of_tensorflows_documentation():
    assert [fingerprint64(text) % 3 for text in ("Hello", "TensorFlow", "2.x")] == [0, 2, 2]


@pytest.mark.data
def test_orqa_dev__chooses_as_many_web_questions_as_orqa_reports(data_folder: Path):
    questions = [
        q for split in ("train", "dev") for q in read_questions(data_folder / f"qa/web_questions.{split}.jsonl")
    ]
    assert len(questions) == 3778
    assert sum(orqa_dev(q.question) for q in questions) == 361
