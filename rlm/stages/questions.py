"""Stage: one open-QA data set with its three splits."""

import warnings
from itertools import islice
from pathlib import Path

from rlm.answer_patterns import UnusablePattern
from rlm.data.config import EncyclopediaSource, FilesSource, QuestionsConfig
from rlm.data.qa import Question, read_questions, write_questions
from rlm.data.sources import source_files
from rlm.errors import ConfigError
from rlm.stages.stage import Context

SPLITS = ("train", "dev", "test")


def run(config: QuestionsConfig, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `{train,dev,test}.jsonl`: the first questions of each split, up to its limit."""
    notes: list[str] = []
    splits = _splits(config, context.runtime.data, notes)
    for note in notes:
        warnings.warn(note, UnusablePattern, stacklevel=1)
    counts = {}
    for split, limit in zip(SPLITS, (config.train_limit, config.dev_limit, config.test_limit), strict=True):
        questions = list(islice(splits[split], limit))
        if not questions:
            raise ConfigError(f"the {split} split of {config.source} holds no question")
        write_questions(folder / f"{split}.jsonl", questions)
        counts[split] = float(len(questions))
    return counts


def _splits(config: QuestionsConfig, data: Path | None, notes: list[str]) -> dict[str, list[Question]]:
    source = config.source
    if isinstance(source, EncyclopediaSource):
        from rlm.data.encyclopedia import questions

        return {split: questions(source, split) for split in SPLITS}
    if isinstance(source, FilesSource):
        files = source_files(source.files, data)
        if len(files) != len(SPLITS):
            raise ConfigError(
                f"`files` of questions name {len(files)} files ({', '.join(source.files)}); write exactly three, in the"
                " order train, dev, test"
            )
        return {split: read_questions(path, notes)[: source.limit] for split, path in zip(SPLITS, files, strict=True)}
    from rlm.data.hub import hub_questions

    return hub_questions(source)
