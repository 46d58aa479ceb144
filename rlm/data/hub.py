"""Data sets of the Hugging Face hub: streamed for a stage, or converted once into files of a data folder."""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from rlm.data.config import HubSource
from rlm.data.farmhash import fingerprint64
from rlm.data.qa import Question, distinct, question_of, write_questions
from rlm.data.records import Problems, Record
from rlm.data.sentences import sentence_spans
from rlm.data.sources import Passage, passages_of
from rlm.data.text_files import create_text
from rlm.errors import ConfigError

PINNED = {
    "nq_open": HubSource(
        dataset="google-research-datasets/nq_open", revision="5dd9790a83002ad084ddeb7c420dc716852c6f28"
    ),
    "web_questions": HubSource(
        dataset="stanfordnlp/web_questions", revision="0e473cbe21d1e91ec18da343644498be6a3f5454"
    ),
    "wikipedia": HubSource(
        dataset="wikimedia/wikipedia", name="20231101.en", revision="b04c8d1ceb2f5cd4588862100d08de323dccfbaa"
    ),
}
"""Data sets that `rlm data fetch` converts, at the commit that every run of it reads."""

LOCALLY = (
    f"where the hub can be reached, download it (`rlm data fetch` converts {', '.join(PINNED)}); then copy the files"
    " here and write `kind: files`"
)
BLOCK_WORDS = 100
"""Words of a passage, about: DPR's passages have exactly 100, these end where a sentence does."""
SHARD_PASSAGES = 1_000_000

Progress = Callable[[str, int], None]
"""Called with what is being written and how many records of it are done."""


def hub_passages(source: HubSource) -> Iterator[Passage]:
    """The records `id`, `title`, `text` of the split `train`, streamed.

    Raises:
        ConfigError: a data set that cannot be reached, or records that cannot be used.
    """
    problems = Problems()
    records = _records(source, "train", _streams(source))
    yield from passages_of(records, problems, set(), lambda _: "an earlier record")
    problems.check()


def hub_questions(source: HubSource) -> dict[str, list[Question]]:
    """The splits train, dev and test, at most `limit` records of each.

    Where the hub has no test split, its validation split is the test split, and where that leaves no validation split,
    dev is held out from train: both as ORQA does (Lee et al. 2019) with NQ-open and WebQuestions, by `orqa_dev`.

    Raises:
        ConfigError: a data set that cannot be reached, or records that cannot be used.
    """
    streams = _streams(source)
    problems = Problems()

    def read(split: str, keep: Callable[[str], bool] = lambda question: True) -> Iterator[Question]:
        records = _records(source, split, streams)
        for _, question in distinct(((each.place, question_of(each, problems)) for each in records), problems):
            if keep(question.question):
                yield question

    if "test" in streams and "validation" in streams:
        splits = {"train": read("train"), "dev": read("validation"), "test": read("test")}
    else:
        train = read("train", lambda question: not orqa_dev(question))
        test = "test" if "test" in streams else "validation"
        splits = {"train": train, "dev": read("train", orqa_dev), "test": read(test)}
    found = {split: list(islice(questions, source.limit)) for split, questions in splits.items()}
    problems.check()
    return found


def orqa_dev(question: str) -> bool:
    """Whether ORQA holds a training question out for its dev split, about one in ten.

    `to_hash_bucket_fast(question, 100000) mod 10 = 0` (google-research/language, orqa/create_data_splits).
    It chooses 361 of WebQuestions' 3,778 training questions, the size of ORQA's dev split. The NQ dev split that DPR
    published has the size of ORQA's but does not follow the rule.
    """
    return fingerprint64(question) % 100_000 % 10 == 0


def fetch(dataset: str, out: Path, limit: int | None, progress: Progress = lambda what, done: None) -> list[Path]:
    """Convert a data set of the hub into files of a data folder, all of them or none.

    `nq_open` and `web_questions` become `qa/<name>.{train,dev,test}.jsonl` (see `hub_questions`); `wikipedia` becomes
    `wiki/passages-NN.jsonl.gz`, its articles cut into blocks of about 100 words at sentence ends.

    Args:
        dataset: a name in `PINNED`.
        out: the data folder.
        limit: records (questions of a split, articles) from the first; None takes all.
        progress: shows how far the work is.

    Returns:
        The files written.

    Raises:
        ConfigError: a hub that cannot be reached, or files that are there already.
    """
    source = dataclasses.replace(PINNED[dataset], limit=limit)
    part, name = ("wiki", "passages-*.jsonl.gz") if dataset == "wikipedia" else ("qa", f"{dataset}.*.jsonl")
    if present := sorted((out / part).glob(name)):
        raise ConfigError(f"{present[0]} is there already; remove it, or give another folder by --out")
    (out / part).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{dataset}-", dir=out) as folder:
        if dataset == "wikipedia":
            articles = islice(hub_passages(source), limit)
            _write_shards(Path(folder), chain.from_iterable(map(blocks, articles)), progress)
        else:
            for split, questions in hub_questions(source).items():
                write_questions(Path(folder) / f"{dataset}.{split}.jsonl", questions)
                progress(f"{dataset}.{split}", len(questions))
        return [path.rename(out / part / path.name) for path in sorted(Path(folder).iterdir())]


def blocks(article: Passage) -> Iterator[Passage]:
    """An article in blocks, each as near 100 words as sentence ends allow; ids are `<article>:<block>`."""
    lines = (line.strip() for line in article.text.split("\n"))
    sentences = [line[start:end] for line in lines for start, end in sentence_spans(line)]
    block: list[str] = []
    words = number = 0
    for sentence in sentences:
        length = len(sentence.split())
        if block and words + length / 2 > BLOCK_WORDS:
            yield Passage(f"{article.id}:{number}", article.title, " ".join(block))
            block, words, number = [], 0, number + 1
        block.append(sentence)
        words += length
    if block:
        yield Passage(f"{article.id}:{number}", article.title, " ".join(block))


def _write_shards(folder: Path, passages: Iterator[Passage], progress: Progress) -> None:
    for shard in count():
        first = next(passages, None)
        if first is None:
            return
        name = f"passages-{shard:02d}.jsonl.gz"
        with create_text(folder / name) as file:
            for done, passage in enumerate(chain([first], islice(passages, SHARD_PASSAGES - 1)), start=1):
                file.write(json.dumps(passage._asdict(), ensure_ascii=False) + "\n")
                if done % 1000 == 0:
                    progress(name, done)
        progress(name, done)


def _records(source: HubSource, split: str, streams: dict[str, Iterable[dict[str, Any]]]) -> Iterator[Record]:
    if split not in streams:
        raise ConfigError(f"{source.dataset} has no split `{split}` (it has {', '.join(streams)}); {LOCALLY}")
    with _reached(source):
        for number, fields in enumerate(streams[split], start=1):
            yield Record(f"{source.dataset} {split}, record {number}", number, fields)


def _streams(source: HubSource) -> dict[str, Iterable[dict[str, Any]]]:
    with _reached(source):
        from datasets import load_dataset

        return dict(load_dataset(source.dataset, source.name, revision=source.revision, streaming=True))


@contextlib.contextmanager
def _reached(source: HubSource) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of the hub's client, the network or the files: they have no other base
        raise ConfigError(
            f"{source.dataset} at revision {source.revision}: cannot be read from the hub"
            f" ({type(error).__name__}: {error}); {LOCALLY}"
        ) from error
