"""Pairs of sentences: read from files or generated, and kept as tokens beside their text."""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rlm.data.config import FilesSource
from rlm.data.corpus import batched
from rlm.data.document_records import share_of
from rlm.data.mapped_folder import MappedFolder
from rlm.data.parallel_config import (
    PairTokenizerConfig,
    ParallelConfig,
    PhrasebookSource,
    PretrainedPairTokenizer,
    files_of,
)
from rlm.data.phrasebook import Pair, pairs
from rlm.data.pretrained import load_tokenizer
from rlm.data.records import Problems, identity_of, read_records, text_of
from rlm.data.sources import place_of, source_files
from rlm.data.text_files import read_lines
from rlm.data.tokens import Ragged, RaggedWriter, token_dtype
from rlm.errors import ConfigError, listed, quoted

SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>"}
TOGETHER = 1024  # pairs tokenised together


def read_pairs(config: ParallelConfig, data: Path | None) -> Iterator[Pair]:
    """The pairs that a configuration means, in the order of the source.

    Raises:
        ConfigError: no data folder or file, records without one of the texts, lines without a counterpart (each with
            file and line), an id that was used before, or no pair at all.
    """
    (low, high), named = config.part, describe(config)
    empty = True
    for pair in _of_source(config, data):
        empty = False
        if low <= share_of("part", pair.id) < high and share_of("fraction", pair.id) < config.fraction:
            yield pair._replace(source=config.prefix + pair.source)
    if empty:
        raise ConfigError(f"{named}: holds no pair of sentences; give at least one")


def describe(config: ParallelConfig) -> str:
    """The source of pairs in a few words."""
    source = config.source
    if isinstance(source, PhrasebookSource):
        return f"phrasebook, {source.domain} {source.split}"
    return ", ".join(files_of(source).files)


def _of_source(config: ParallelConfig, data: Path | None) -> Iterator[Pair]:
    source = config.source
    found: Iterator[Pair]
    if isinstance(source, PhrasebookSource):
        return pairs(source)
    files = source_files(files_of(source).files, data)
    problems = Problems()
    if isinstance(source, FilesSource):
        found = _records(files, config, problems)
    else:
        if len(files) != 2:
            raise ConfigError(f"{describe(config)}: {len(files)} files; name one for either language")
        found = _aligned(files[0], files[1], problems)
    return _checked(islice(found, source.limit), problems)


def _checked(found: Iterator[Pair], problems: Problems) -> Iterator[Pair]:
    """All pairs, then the mistakes up to the last of them."""
    yield from found
    problems.check()


def _records(files: list[Path], config: ParallelConfig, problems: Problems) -> Iterator[Pair]:
    seen: set[str] = set()
    for record in (record for path in files for record in read_records(path, problems)):
        fields, names = record.fields, ("id", config.source_field, config.target_field)
        missing = [name for name in names if fields.get(name) is None or not str(fields[name]).strip()]
        if missing:
            absent = ", ".join(f"`{name}`" for name in missing)
            problems.add(f"{record.place}: no {absent}, or an empty one; the record has: {listed(fields)}")
            continue
        identity = identity_of(record, problems)
        source, target = (text_of(record, name, problems) for name in names[1:])
        if identity is None or source is None or target is None:
            continue
        if identity in seen:
            first = place_of(identity, files)
            problems.add(
                f"{record.place}: two pairs have the id {quoted(identity)}, this and {first}; give each its own"
            )
            continue
        seen.add(identity)
        yield Pair(identity, source, target)


def _aligned(source: Path, target: Path, problems: Problems) -> Iterator[Pair]:
    for number, lines in enumerate(zip_longest(read_lines(source), read_lines(target)), 1):
        text, translation = (None if line is None else line.strip() for line in lines)
        if text and translation:
            yield Pair(f"{source.name}:{number}", text, translation)
        elif text or translation:
            full, lacking, line = (source, target, translation) if text else (target, source, text)
            what = "the file ends before it" if line is None else "the line is empty"
            problems.add(
                f"{full}:{number}: no counterpart in {lacking.name} ({what}); give both files a line for each pair"
            )


def make_pair_tokenizer(config: PairTokenizerConfig, texts: Callable[[], Iterable[str]]) -> Any:
    """A tokenizer that ends every sentence with its `eos_token`; `texts` are read where one is trained.

    Raises:
        ConfigError: the checkpoint has none, or it has no end of sentence, no padding, or other languages.
    """
    if isinstance(config, PretrainedPairTokenizer):
        return _of_checkpoint(config)
    trained = ByteLevelBPETokenizer(add_prefix_space=True)
    special = list(SPECIAL.values())
    trained.train_from_iterator(
        texts(), vocab_size=config.vocab_size, min_frequency=2, special_tokens=special, show_progress=False
    )
    end = SPECIAL["eos_token"]
    trained._tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, trained.token_to_id(end))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, clean_up_tokenization_spaces=False, **SPECIAL)


def _of_checkpoint(config: PretrainedPairTokenizer) -> Any:
    named = {"src_lang": config.source_language, "tgt_lang": config.target_language}
    languages = {name: language for name, language in named.items() if language is not None}
    try:
        tokenizer = load_tokenizer(config, "tokenizer.name", "gives no tokenizer", **languages)
        first = _language(tokenizer)
    except (OSError, ValueError, ImportError, KeyError) as error:
        unknown = error.__cause__ if isinstance(error, ConfigError) else error
        if isinstance(unknown, KeyError) and unknown.args[0] in languages.values():  # M2M100's way to say so
            message = f"tokenizer: `{config.name}` has no language {unknown}; write one of its own codes"
            raise ConfigError(message) from error
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"tokenizer.name: `{config.name}` gives no tokenizer ({error}); write the path of a checkpoint"
        ) from error
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise ConfigError(f"tokenizer.name: `{config.name}` has no padding or no end of sentence; name another")
    multilingual = hasattr(tokenizer, "tgt_lang")
    if multilingual and tokenizer.tgt_lang is None:
        raise ConfigError(
            f"tokenizer: `{config.name}` has many languages; write `source_language` and `target_language`, such as"
            " `deu_Latn` and `eng_Latn`"
        )
    if languages and not multilingual:
        raise ConfigError(f"tokenizer: `{config.name}` has no languages to choose from; leave them out")
    if multilingual and tokenizer.unk_token_id in (*tokenizer("")["input_ids"], first):
        raise ConfigError(
            f"tokenizer: `{config.name}` has no language {tokenizer.src_lang} or {tokenizer.tgt_lang}; write its codes"
        )
    return tokenizer


def _language(tokenizer: Any) -> int | None:
    """The token of the target language that every translation begins with; None where there is none."""
    if getattr(tokenizer, "tgt_lang", None) is None:
        return None
    first = tokenizer(text_target="")["input_ids"][0]
    return None if first == tokenizer.eos_token_id else int(first)


def write_pairs(
    folder: Path, texts: Iterable[tuple[Iterable[Pair], int | None]], tokenizer: Any, limit: int | None = None
) -> dict[str, float]:
    """Write what `ParallelText.open` reads, in memory that does not grow with the text.

    Args:
        folder: to write to.
        texts: pairs, and how many tokens a side of them may have at most; those with more are left out.
        tokenizer: of both languages.
        limit: tokens that the model reads or writes at most.

    Returns:
        pairs, those left out, and tokens of either side (ends of sentences included).

    Raises:
        ValueError: no pairs.
        ConfigError: pairs that are longer than the limit.
    """
    tokenizer.save_pretrained(folder / "tokenizer")
    vocab_size = len(tokenizer)
    sides = {side: RaggedWriter(folder, side, token_dtype(vocab_size)) for side in ("source", "target")}
    counts: dict[str, float] = dict.fromkeys(("pairs", "left_out", *(f"{side}_tokens" for side in sides)), 0)
    beyond: list[tuple[int, str]] = []
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for some, longest in ((some, longest) for pairs, longest in texts for some in batched(pairs, TOGETHER)):
            sources = tokenizer([pair.source for pair in some], verbose=False)["input_ids"]
            targets = tokenizer(text_target=[pair.target for pair in some], verbose=False)["input_ids"]
            lengths = [max(len(source), len(target)) for source, target in zip(sources, targets, strict=True)]
            kept = [n for n, length in enumerate(lengths) if longest is None or length <= longest]
            beyond += [(lengths[n], some[n].id) for n in kept if limit is not None and lengths[n] > limit]
            for (side, writer), rows in zip(sides.items(), (sources, targets), strict=True):
                writer.append([rows[n] for n in kept])
                counts[f"{side}_tokens"] += sum(len(rows[n]) for n in kept)
            file.writelines(json.dumps(some[n]._asdict(), ensure_ascii=False) + "\n" for n in kept)
            counts["pairs"] += len(kept)
            counts["left_out"] += len(some) - len(kept)
    for writer in sides.values():
        writer.close()
    if beyond:
        length, identity = max(beyond)
        raise ConfigError(
            f"{len(beyond)} pairs are longer than the {limit} tokens that the model reads, the longest {identity!r}"
            f" with {length}; leave them out with `longest: {limit}` beside their `source`, or raise"
            " `model.max_positions` where the model is trained here"
        )
    if not counts["pairs"]:
        raise ValueError("no pair is left; check `source`, `part`, `fraction` and `longest` of the pairs")
    described = {
        **{"pairs": counts["pairs"], "vocab_size": vocab_size, "pad": tokenizer.pad_token_id},
        "first": _language(tokenizer),
    }
    (folder / "parallel.json").write_text(json.dumps(described), encoding="utf-8")
    return counts


class ParallelText(MappedFolder):
    """Finished pairs; tokens are memory-mapped, text and tokenizer are read when first used."""

    source: Ragged
    """Tokens of what is translated, each with its end of sentence."""
    target: Ragged
    """Tokens of the translations, each with its end of sentence."""
    first: int | None
    """The token of its language, which a translation begins with; None where the model knows only one."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        try:
            described = json.loads((folder / "parallel.json").read_text(encoding="utf-8"))
            self.vocab_size, self.pad, count = (int(described[name]) for name in ("vocab_size", "pad", "pairs"))
            self.first = described["first"]
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"{folder}: no pairs of sentences, or damaged ones ({error}); delete the folder"
            ) from error
        self.source, self.target = (Ragged.open(folder, side) for side in ("source", "target"))
        if {len(self.source), len(self.target)} != {count}:
            raise ValueError(f"{folder}: damaged ({len(self.source)} and {len(self.target)} rows of {count} pairs)")

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def pairs(self) -> list[Pair]:
        """The text."""
        with (self.folder / "pairs.jsonl").open(encoding="utf-8") as file:
            return [Pair(**json.loads(line)) for line in file]
