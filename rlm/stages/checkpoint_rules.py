"""What the checkpoints of an experiment cannot do, for each kind of experiment (imports nothing heavy)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm.data.checkpoint_files import Description
from rlm.data.config import PretrainedTokenizer, TokenClassificationTagger
from rlm.data.pretrained import Named
from rlm.data.tokenizer_files import TokenizerFiles
from rlm.models.knn_config import PretrainedLanguageModel
from rlm.models.retro_config import PretrainedDecoder, attending_layers
from rlm.models.translation_config import PretrainedTranslator
from rlm.retrieval.config import Bm25, ChunkIndexConfig, DualEncoderConfig, PretrainedEncoder, projection_mistake
from rlm.stages.checkpoint_checks import OF_ENCODERS, CheckpointCheck, known

if TYPE_CHECKING:
    from rlm.stages.experiment import RealmExperiment
    from rlm.stages.knn_lm_experiment import KnnLmExperiment
    from rlm.stages.knn_mt_experiment import KnnMtExperiment
    from rlm.stages.retro_experiment import RetroExperiment
    from rlm.stages.retro_qa_experiment import RetroQaExperiment

_WITHOUT_POOLER = ("deberta", "deberta-v2", "distilbert", "electra", "funnel", "modernbert")
_PROJECTED = ("RealmEmbedder", "RealmForOpenQA", "RealmScorer")
"""Classes of transformers that have a projection."""


def realm_checkpoints(e: RealmExperiment) -> list[str]:
    """Of encoder, retriever, tokenizer and tagger."""
    check = CheckpointCheck()
    tokenizer = check.text("tokenizer", e.tokenizer, OF_ENCODERS)
    if isinstance(e.encoder, PretrainedEncoder):
        check.vocabulary(check.masked("encoder", e.encoder), e.encoder, "tokenizer", e.tokenizer, tokenizer)
    if isinstance(e.retriever.encoder, PretrainedEncoder):
        found = check.encoder("retriever.encoder", e.retriever.encoder)
        check.vocabulary(found, e.retriever.encoder, "tokenizer", e.tokenizer, tokenizer)
        _pooling(check, e.retriever, found)
    if isinstance(e.salient_spans, TokenClassificationTagger):
        _tagger(check, e.salient_spans)
    return check.mistakes


def _pooling(check: CheckpointCheck, retriever: DualEncoderConfig, found: Description | None) -> None:
    if found is None:
        return
    if retriever.pooling == "pooler" and found.model_type in _WITHOUT_POOLER:
        check.say("retriever.pooling", f"pooler, but {found.name} ({found.model_type}) has none; write cls or mean")
    width, saved = found.plain.get("retriever_proj_size"), found.plain.get("architectures")
    projected = isinstance(saved, list) and any(name in _PROJECTED for name in saved)
    if projected and isinstance(width, int) and (mistake := projection_mistake(retriever, found.name, width)):
        check.say("retriever.pooling", mistake)


def _tagger(check: CheckpointCheck, tagger: TokenClassificationTagger) -> None:
    field = "salient_spans.name"
    found = check.model(field, tagger)
    tokenizer = check.tokenizer(field, tagger, ("pad_token",))
    check.vocabulary(found, tagger, field, tagger, tokenizer)
    if found is not None and not tagger.train_files and "O" not in found.labels:
        labels = ", ".join(found.labels[:5]) or "none"
        check.say(
            field,
            f"{tagger.name} has the labels {labels}, and no `O`: not a trained tagger; give one, or `train_files` to"
            " train it",
        )


def retro_checkpoints(e: RetroExperiment) -> list[str]:
    """Of decoder, tokenizer and the chunks' encoder."""
    check = CheckpointCheck()
    _decoder(check, e)
    if e.train.k or e.evaluate.k:
        _chunks(check, e.chunks)
    return check.mistakes


def retro_qa_checkpoints(e: RetroQaExperiment) -> list[str]:
    """Beside those of a RETRO: what questions and answers need."""
    check = CheckpointCheck()
    _decoder(check, e)
    _chunks(check, e.chunks)
    decoder = e.model.decoder
    found = known(decoder) if isinstance(decoder, PretrainedDecoder) else None
    length = e.finetune.prompt_chunks * e.model.chunk_tokens + e.finetune.answer_tokens - 1
    if found is not None and found.positions is not None and length > found.positions:
        check.say(
            "finetune.prompt_chunks",
            f"{e.finetune.prompt_chunks} chunks of {e.model.chunk_tokens} tokens and an answer of"
            f" {e.finetune.answer_tokens}, {found.name} has {found.positions} positions; write fewer",
        )
    return check.mistakes


def _decoder(check: CheckpointCheck, e: RetroExperiment) -> None:
    decoder, tokenizer = e.model.decoder, check.text("tokenizer", e.tokenizer)
    if not isinstance(decoder, PretrainedDecoder):
        return
    field = "model.decoder"
    found = check.language_model(field, decoder)
    _own_vocabulary(check, found, decoder, e.tokenizer, tokenizer)
    if found is None:
        return
    if found.model_type not in ("gpt2", ""):
        check.say(field, f"{found.name} is a {found.model_type}, not a gpt2; name a GPT-2 checkpoint")
        return
    if found.plain.get("scale_attn_by_inverse_layer_idx") or found.plain.get("scale_attn_weights") is False:
        check.say(
            field, f"{found.name} scales its attention in a way of its own; name a GPT-2 that scales by head size"
        )
    if found.layers is not None:
        try:
            attending_layers(e.model.cca_layers, found.layers)
        except ValueError as error:
            check.say("model.cca_layers", str(error))
    for name, tokens in (("train.tokens", e.train.tokens), ("evaluate.tokens", e.evaluate.tokens)):
        if found.positions is not None and tokens > found.positions:
            check.say(name, f"{tokens}, but {found.name} has {found.positions} positions; write at most so many")


def _chunks(check: CheckpointCheck, chunks: ChunkIndexConfig) -> None:
    if isinstance(chunks.index, Bm25) or chunks.encoder is None:
        return
    encoder, field = chunks.encoder.encoder, "chunks.encoder.encoder"
    if isinstance(encoder, PretrainedEncoder):
        found, tokenizer = check.encoder(field, encoder), check.tokenizer(field, encoder, OF_ENCODERS)
        check.vocabulary(found, encoder, field, encoder, tokenizer)


def _own_vocabulary(
    check: CheckpointCheck, found: Description | None, named: Named, text: object, tokenizer: TokenizerFiles | None
) -> None:
    """Where the text is read with the model's own tokenizer, as it has to be: another is refused as such."""
    if isinstance(text, PretrainedTokenizer) and text.name == named.name:
        check.vocabulary(found, named, "tokenizer", text, tokenizer)


def knn_lm_checkpoints(e: KnnLmExperiment) -> list[str]:
    """Of the language model and its tokenizer."""
    check = CheckpointCheck()
    tokenizer = check.text("tokenizer", e.tokenizer)
    if isinstance(e.model, PretrainedLanguageModel):
        found = check.language_model("model", e.model)
        _own_vocabulary(check, found, e.model, e.tokenizer, tokenizer)
    return check.mistakes


def knn_mt_checkpoints(e: KnnMtExperiment) -> list[str]:
    """Of the translator and its tokenizer."""
    check = CheckpointCheck()
    tokenizer = check.text("tokenizer", e.tokenizer, ("pad_token", "eos_token"))
    if isinstance(e.model, PretrainedTranslator):
        found = check.translator("model", e.model)
        _own_vocabulary(check, found, e.model, e.tokenizer, tokenizer)
        longest = e.decode.max_tokens
        if found is not None and found.positions is not None and longest > found.positions:
            check.say(
                "decode.max_tokens",
                f"{longest} tokens, {found.name} has {found.positions} positions; write at most so many",
            )
    return check.mistakes
