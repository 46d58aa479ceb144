"""Stage: translates sentences by beam search, with or without a datastore."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from rlm.data.parallel import ParallelText
from rlm.data.translation_batches import batches_by_length, pair_batch
from rlm.models.knn_mt import Nearest, NeighbourInterpolation
from rlm.models.translation import IGNORED, DecoderStates
from rlm.models.translation_config import DecodingConfig
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.datastore_search import DatastoreIndex, open_search
from rlm.stages.knn_search import open_stores, searching
from rlm.stages.mt_datastore import made_of_states, open_translator
from rlm.stages.stage import Context
from rlm.stages.training import accelerator

TRANSLATIONS, SPEED, _PART = "translations.jsonl", "speed.jsonl", "part.jsonl"


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `translations.jsonl` (id, source, hypothesis, reference) and `speed.jsonl` (id, tokens, seconds), in the
    order of the text; an interrupted run goes on after the batches that were translated.

    Raises:
        ValueError: a datastore of another model or key, or k above its size.
    """
    decode: DecodingConfig = config["decode"]
    text = ParallelText.open(inputs["text"])
    model = open_translator(config["model"], inputs, text).to(accelerator(context.runtime))
    context.all_read()
    batches = batches_by_length(text.source.lengths, decode.batch_size)
    part = folder / _PART
    finished = _finished(part)
    with contextlib.ExitStack() as opened:
        processors = LogitsProcessorList()
        if decode.knn.weight:
            states = opened.enter_context(DecoderStates(model, config["key"]))
            processors.append(NeighbourInterpolation(states, _nearest(config, inputs, context), decode.knn))
        file = opened.enter_context(part.open("w", encoding="utf-8"))
        for number, batch in enumerate(batches):
            if number == len(finished):
                started = time.perf_counter()
                ids = translate(model, pair_batch(text, batch, IGNORED), decode, processors, text.first)
                seconds = time.perf_counter() - started
                texts = [each.strip() for each in text.tokenizer.batch_decode(ids, skip_special_tokens=True)]
                # what stands after the first end of sentence is padding, whatever it is
                ended = ids[:, 1:] == text.tokenizer.eos_token_id
                tokens = (ended.cumsum(1) - ended.long() == 0).sum(1).tolist()
                finished.append({"hypotheses": texts, "tokens": tokens, "seconds": seconds})
            file.write(json.dumps(finished[number], ensure_ascii=False) + "\n")
            file.flush()
            context.progress(number + 1, len(batches))
    _write(folder, text, batches, finished)
    part.unlink()
    tokens = sum(sum(each["tokens"]) for each in finished)
    seconds = sum(each["seconds"] for each in finished)
    return {"sentences": len(text), "tokens": tokens, "tokens_per_second": tokens / seconds}


def translate(
    model: Any, batch: dict[str, Tensor], decode: DecodingConfig, processors: LogitsProcessorList, first: int | None
) -> Tensor:
    """The best translation of each sentence as tokens, after the start token, padded: [batch, tokens].

    Args:
        model: an encoder-decoder.
        batch: of `pair_batch`.
        decode: beams and lengths.
        processors: of log-probabilities.
        first: token that every translation begins with; None leaves that to the model.
    """
    language = {} if first is None else {"forced_bos_token_id": first}
    with torch.inference_mode():
        return model.generate(
            input_ids=batch["ids"].to(model.device),
            attention_mask=batch["mask"].to(model.device),
            num_beams=decode.beams,
            do_sample=False,
            max_new_tokens=decode.max_tokens,
            length_penalty=decode.length_penalty,
            logits_processor=processors,
            **language,
        ).cpu()


def _finished(part: Path) -> list[dict[str, Any]]:
    """The batches that an interrupted run translated."""
    found: list[dict[str, Any]] = []
    # there is none, or the last line was not finished
    with contextlib.suppress(OSError, ValueError), part.open(encoding="utf-8") as file:
        for line in file:  # which ends where JSON's do, unlike those of `splitlines`
            found.append(json.loads(line))
    return found


def _nearest(config: Any, inputs: dict[str, Path], context: Context) -> Nearest:
    """The search of the joined datastores."""
    datastore, k = open_stores(inputs, **made_of_states(config["model"], config["key"], inputs)), config["decode"].knn.k
    if k > len(datastore):
        raise ValueError(f"decode.knn.k: {k} neighbours of a datastore of {len(datastore)} keys; write at most so many")
    return nearest_tokens(open_search(config["search"], datastore, inputs.get("index"), searching(context)), datastore)


def nearest_tokens(search: DatastoreIndex, datastore: Datastore) -> Nearest:
    """The search, with the tokens of the keys it finds."""

    def nearest(states: Tensor, k: int) -> tuple[Tensor, Tensor]:
        distances, ids = search.search(states.float().cpu(), k)
        tokens = torch.from_numpy(datastore.take_values(ids.numpy()))
        return distances.to(states.device), tokens.to(states.device)

    return nearest


def _write(folder: Path, text: ParallelText, batches: list[Any], finished: list[dict[str, Any]]) -> None:
    """One line for each sentence, the time of a batch shared equally."""
    lines: dict[int, tuple[str, str]] = {}
    for batch, done in zip(batches, finished, strict=True):
        for pair, hypothesis, tokens in zip(batch.tolist(), done["hypotheses"], done["tokens"], strict=True):
            identity, source, reference = text.pairs[pair]
            shown = {"id": identity, "source": source, "hypothesis": hypothesis, "reference": reference}
            cost = {"id": identity, "tokens": tokens, "seconds": done["seconds"] / len(batch)}
            lines[pair] = (json.dumps(shown, ensure_ascii=False), json.dumps(cost, ensure_ascii=False))
    for name, column in ((TRANSLATIONS, 0), (SPEED, 1)):
        with (folder / name).open("w", encoding="utf-8") as file:
            file.writelines(lines[pair][column] + "\n" for pair in range(len(text)))
