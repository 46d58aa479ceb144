"""RETRO's table: what rows share, what a key depends on, and mistakes that are found before anything runs."""

import shutil
from pathlib import Path

import pytest

from rlm.data.config import DocumentsConfig, EncyclopediaSource, FilesSource
from rlm.errors import ConfigError
from rlm.models.config import Training
from rlm.models.retro_config import PretrainedDecoder, RetroTrainConfig
from rlm.retrieval.config import ChunkEncoderConfig, ChunkIndexConfig, PretrainedEncoder, ScratchEncoder
from rlm.stages.models import MODELS
from rlm.stages.retro_experiment import RetroExperiment, check_retro, retro_stages
from rlm.stages.wire import pack, unpack
from rlm.table import AblationTable, distinct_stages, load_table

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TABLE = EXPERIMENTS / "retro_neighbours.yaml"
EVALUATED = ("Off", "1 neighbour", "2 neighbours", "4 neighbours", "8 neighbours")


def table(*settings: str, scale: str = "tiny", **options) -> AblationTable:
    return load_table(TABLE, scale, settings=settings, **options)


def cells(*settings: str, content=lambda source: "", **options):
    return {cell.row: cell for cell in table(*settings, **options).cells(content)}


def keys(*settings: str, content=lambda source: "", scale: str = "tiny") -> dict[str, str]:
    cell = cells(*settings, content=content, scale=scale)["2 neighbours"]
    return {role: stage.key for role, stage in cell.stages.items()}


FROZEN = {
    "training_text": "documents-c79b4033047f3dad",
    "corpus": "documents-d9c837b1e4d1f1ee",
    "evaluation_text": "documents-71580206c1b13ce6",
    "index": "chunk_index-f177a5ec76a4cc5f",
    "neighbours": "neighbours-bcc9d75a108cbd01",
    "evaluation_neighbours": "neighbours-f1fc36224dd80ccc",
    "train": "retro_train-ab0fb884e3f228f1",
    "perplexity": "perplexity-763b798559e3cbbc",
    "leakage": "leakage-f301d921057c812c",
}


def test_key__when_frozen() -> None:
    # If this fails, every store in use becomes stale: a changed rule of hashing needs a reason.
    news = EncyclopediaSource(entities=10, stream="news")
    experiment = RetroExperiment(
        training_text=DocumentsConfig(source=news, part=(0.0, 0.9)),
        corpus=DocumentsConfig(source=EncyclopediaSource(entities=10), join="by_id_prefix"),
        evaluation_texts={"news": DocumentsConfig(source=news, part=(0.9, 1.0))},
        chunks=ChunkIndexConfig(encoder=ChunkEncoderConfig(encoder=ScratchEncoder())),
        train=RetroTrainConfig(training=Training(steps=10, batch_size=4, learning_rate=1e-3)),
    )
    assert check_retro(experiment) == []
    stages = retro_stages(experiment, "news", 3, lambda source: "")
    assert {role: stage.folder for role, stage in stages.items()} == FROZEN


def test_distinct_stages__when_rows_share_a_model() -> None:
    rows = cells()
    names = [stage.name for stage, _ in distinct_stages(rows.values()).values()]
    assert {name: names.count(name) for name in names} == {
        **{"documents": 3, "chunk_index": 1, "neighbours": 2},
        **{"retro_train": 4, "perplexity": 8},
    }
    assert len({rows[row].stages["train"].key for row in EVALUATED}) == 1
    assert len({rows[row].stages["perplexity"].key for row in EVALUATED}) == len(EVALUATED)


def test_stages__of_a_language_model_do_not_depend_on_the_corpus() -> None:
    one, other = (cells(f"neighbours.k={k}", "corpus.fraction=0.5")["Base LM"] for k in (8, 9))
    plain = cells()["Base LM"]
    assert one.stages["perplexity"].key == other.stages["perplexity"].key == plain.stages["perplexity"].key
    assert {stage.name for stage in plain.needed().values()} == {"documents", "retro_train", "perplexity"}


def test_stages__of_leakage_compare_all_rows_on_the_same_chunks() -> None:
    rows = {cell.row: cell for cell in load_table(EXPERIMENTS / "retro_leakage.yaml", "tiny").cells(lambda source: "")}
    leakage = {row: cell.stages["leakage"] for row, cell in rows.items()}
    assert len(leakage) == len({stage.key for stage in leakage.values()}) == 3
    for role in ("text", "corpus", "neighbours"):
        assert len({stage.inputs[role].key for stage in leakage.values()}) == 1, role
    assert all(cell.leaves == ("leakage",) for cell in rows.values())
    base = rows["Base LM"]
    assert base.stages["neighbours"].key not in base.needed(), "it is trained without"
    assert base.stages["perplexity"].key in cells()["Base LM"].needed(), "shared with other tables"


def test_stages__have_other_keys_when_what_they_read_changes() -> None:
    before = keys(scale="small")
    base = {"train", "perplexity", "leakage"}
    expected = {
        "train.k=1": base,
        "train.part=neighbour": base,
        "evaluate.k=1": {"perplexity", "leakage"},
        "leakage.thresholds=[50.0, 100.0]": {"leakage"},
        "model.encoder.layers=3": base,
        "neighbours.k=9": {"neighbours", "evaluation_neighbours", *base},
        "corpus.fraction=0.2": {"corpus", "index", "neighbours", "evaluation_neighbours", *base},
        "evaluation_texts.wiki_articles.fraction=0.5": {
            "evaluation_text",
            "evaluation_neighbours",
            "perplexity",
            "leakage",
        },
        "tokenizer.vocab_size=999": set(before),
    }
    for setting, changed in expected.items():
        after = keys(setting, scale="small")
        assert {role for role in before if before[role] != after[role]} == changed, setting


def test_stages__have_other_keys_when_files_change() -> None:
    before = keys(scale="small")
    text = keys(scale="small", content=lambda source: "x" if "lm/wiki_articles.test" in str(source) else "")
    assert {role for role in before if before[role] != text[role]} == {*before} - {"training_text"}, "it is excluded"
    encoder = keys(scale="small", content=lambda source: "x" if isinstance(source, PretrainedEncoder) else "")
    assert {role for role in before if before[role] == encoder[role]} == {"training_text", "corpus", "evaluation_text"}
    gpt2 = ("tokenizer={kind: pretrained, name: gpt2}", "model.decoder={kind: pretrained, name: gpt2}")
    fitted = keys(*gpt2, scale="small")
    changed = keys(*gpt2, scale="small", content=lambda source: "x" if isinstance(source, PretrainedDecoder) else "")
    assert {role for role in fitted if fitted[role] != changed[role]} == {"train", "perplexity", "leakage"}


def test_stages__retrieve_from_the_training_text_where_there_is_no_corpus() -> None:
    stages = cells("corpus=null")["2 neighbours"].stages
    assert stages["corpus"] == stages["training_text"] == stages["neighbours"].inputs["text"]


def test_stages__of_a_fitted_model_begin_with_the_language_model() -> None:
    rows = cells("train.fit=0.25")
    alone, fitted = (rows[row].stages["train"] for row in ("Base LM", "2 neighbours"))
    assert fitted.inputs["base"].key == alone.key == cells()["Base LM"].stages["train"].key
    steps = fitted.inputs["base"].config["train"].training.steps
    assert fitted.config["train"].training.steps == steps // 4
    assert rows["Off"].stages["train"].key == fitted.key, "Off is the fitted model, whose decoder is the language model"


@pytest.mark.parametrize(
    "settings, found",
    {
        (
            "tokenizer={kind: pretrained, name: a}",
            "model.decoder={kind: pretrained, name: b}",
        ): "tokenizer: found a, but",
        (
            "tokenizer={kind: pretrained, name: a}",
            "model.decoder={kind: pretrained, name: a}",
            "evaluate.tokens=256",
        ): "evaluate.tokens: 256, but a decoder of a checkpoint",
    }.items(),
)
def test_check_retro__when_a_checkpoint_does_not_fit(settings: tuple[str, ...], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        table(*settings)


def test_stages__of_a_short_fit_warm_up_in_proportion() -> None:
    fit = cells("train.fit=0.03", "train.training.steps=1000", "train.training.warmup_steps=100")["2 neighbours"]
    training = fit.stages["train"].config["train"].training
    assert (training.steps, training.warmup_steps) == (30, 3)


def test_corpora__are_shares_of_the_corpus_of_the_scale() -> None:
    path = TABLE.with_name("retro_corpus.yaml")
    for scale in ("tiny", "small", "mini"):
        rows = load_table(path, scale).rows
        shares = {row: (e.corpus.part[1] - e.corpus.part[0]) * e.corpus.fraction for row, e in rows.items()}
        whole = shares["100 % of the corpus"]
        assert shares["1 % of the corpus"] == pytest.approx(whole / 100), scale
        assert shares["10 % of the corpus"] == pytest.approx(whole / 10), scale


def test_corpus__holds_no_text_that_is_evaluated_on() -> None:
    experiment = table(scale="small").rows["Off"]
    measured = {
        file
        for text in experiment.evaluation_texts.values()
        if isinstance(text.source, FilesSource)
        for file in text.source.files
    }
    assert measured <= set(experiment.corpus.exclude.files)


def test_unpack__when_packed() -> None:
    for cell in cells().values():
        stage = cell.stages["perplexity"]
        assert unpack(pack(stage)) == stage


def test_measured_on__tells_how_much_is_read() -> None:
    assert table().measured_on("encyclopedia") == "5 % of the documents, in windows of 128 tokens, 128 apart"
    assert table(scale="small").measured_on("wiki_recent") == "all documents, in windows of 512 tokens, 384 apart"


def test_experiment__reads_files_and_the_built_in_world() -> None:
    small, tiny = table(scale="small").rows["Off"], table().rows["Off"]
    assert isinstance(small.corpus.source, FilesSource) and small.corpus.join == "by_id_prefix"
    assert isinstance(small.corpus.exclude, FilesSource), "what is evaluated on is never retrieved"
    assert isinstance(tiny.corpus.source, EncyclopediaSource)
    assert MODELS["retro"].datasets(tiny) == ("wiki_articles", "wiki_recent", "encyclopedia")


MISTAKES = {
    "train.training.steps=0": "train.training.steps: found 0; write a number above 0",
    "training_text.part=[0.5, 0.2]": "training_text.part: found [0.5, 0.2]",
    "evaluation_texts.encyclopedia.fraction=0": "evaluation_texts.encyclopedia.fraction: found 0",
    "chunks.chunk_tokens=32": "chunks.chunk_tokens: 32 tokens, but model.chunk_tokens are 16; write one number",
    "chunks.encoder=null": "chunks.encoder: none; name one",
    "train.tokens=16": "train.tokens: sequences of 16 tokens are not longer than one chunk of 16; write more",
    "evaluate.tokens=8": "evaluate.tokens: sequences of 8 tokens are not longer than one chunk",
    "evaluate.stride=24": "evaluate.tokens: stride of 24 tokens; write a multiple of the chunk, 16",
    "evaluate.batch_size=0": "evaluate.batch_size: found 0; write at least 1",
    "neighbours.k=0": "neighbours.k: found 0; write at least 1",
    "train.fit=-1": "train.fit: found -1",
    "train.k=9": "train.k: reads 9 neighbours, of 8 computed; raise neighbours.k",
    "evaluate.k=-1": "evaluate.k: found -1; write 0 (none) or more",
    "model.cca_layers=[4]": "model.cca_layers: cca_layers names [4], but the decoder's layers are 1 to 3",
    "model.decoder.hidden_size=100": "model.decoder.hidden_size: 100 is no multiple of 2 * heads (4)",
    "model.encoder.layers=0": "model.encoder.layers: found 0; write at least 1",
    "model.decoder={kind: pretrained, name: gpt2}": "tokenizer: found trained_bytes, but the decoder is a checkpoint with"
    " a vocabulary of its own; write {kind: pretrained, name: gpt2, revision: null}",
    "leakage.thresholds=[12.5, 50]": "leakage.thresholds: found [12.5, 50.0]; write rising percentages above 0, the last",
    "leakage.thresholds=[50, 25, 100]": "leakage.thresholds: found [50.0, 25.0, 100.0]; write rising",
    "leakage.thresholds=[0, 100]": "leakage.thresholds: found [0.0, 100.0]; write rising",
    "leakage.thresholds=[]": "leakage.thresholds: found []; write rising",
    "train.part=none": "train.part: found `none` (text); ",
}  # fmt: skip


@pytest.mark.parametrize("setting", MISTAKES)
def test_check_retro__when_fields_do_not_fit_together(setting: str) -> None:
    with pytest.raises(ConfigError) as raised:
        table(setting, rows=["2 neighbours"])
    assert MISTAKES[setting] in str(raised.value)
    if "{" not in setting:
        assert f"--set {setting}: " in str(raised.value) or "stride" in setting, "the place is told"


def test_load_table__when_a_threshold_is_not_measured(tmp_path: Path) -> None:
    shutil.copytree(EXPERIMENTS, tmp_path / "experiments")
    path = tmp_path / "experiments" / "retro_leakage.yaml"
    path.write_text(path.read_text().replace("bits_per_byte@25\n", "bits_per_byte@24\n"))
    with pytest.raises(
        ConfigError, match=r"retro_leakage.yaml:10: columns: no `bits_per_byte@24`; did you mean `bits_"
    ):
        load_table(path, "tiny")
    table = load_table(path, "tiny", settings=["leakage.thresholds=[12.5, 24, 25, 50, 75, 100]"])
    assert table.column("bits_per_byte@24").label == "bits per byte at ≤ 24 % overlap"
