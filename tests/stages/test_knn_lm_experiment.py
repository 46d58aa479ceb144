"""kNN-LM's tables: what rows share, what a key depends on, and mistakes that are found before anything runs."""

from pathlib import Path

import pytest

from rlm.errors import ConfigError
from rlm.models.retro_config import ScratchDecoder
from rlm.stages.knn_lm_experiment import knn_lm_measured_on
from rlm.stages.models import MODELS
from rlm.stages.wire import pack, unpack
from rlm.table import AblationTable, distinct_stages, load_table

FOLDER = Path(__file__).parents[2] / "experiments"
TABLES = sorted(path.name for path in FOLDER.glob("knn_lm*.yaml"))


def table(*settings: str, name: str = "knn_lm.yaml", scale: str = "tiny", **options) -> AblationTable:
    return load_table(FOLDER / name, scale, settings=settings, **options)


def cells(*settings: str, content=lambda source: "", **options):
    return {cell.row: cell for cell in table(*settings, **options).cells(content)}


def keys(*settings: str, row: str = "LM + kNN", content=lambda source: "", scale: str = "small") -> dict[str, str]:
    cell = cells(*settings, content=content, scale=scale)[row]
    return {role: stage.key for role, stage in cell.stages.items()}


def counted(**options) -> dict[str, int]:
    names = [stage.name for stage, _ in distinct_stages(cells(**options).values()).values()]
    return {name: names.count(name) for name in names}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("scale", ["tiny", "small", "mini", "paper"])
def test_table__is_whole_at_every_scale(name: str, scale: str) -> None:
    found = table(name=name, scale=scale)
    assert len(found.rows) >= 4 and found.trends
    assert len({cell.stages["train"].key for cell in found.cells(lambda source: "")}) == 1, "one language model"
    for cell in found.cells(lambda source: ""):
        stage = cell.stages["knn_evaluate"]
        assert unpack(pack(stage)) == stage


def test_rows__share_what_they_can() -> None:
    shared = {"documents": 3, "retro_train": 1, "datastore": 3, "knn_search": 2}
    assert counted() == {**shared, "knn_evaluate": 5}
    assert counted(name="knn_lm_interpolation.yaml") == {**shared, "knn_evaluate": 14}, "one search serves every cell"
    rows = cells()
    assert {stage.name for stage in rows["LM"].needed().values()} == {
        *("documents", "retro_train", "datastore", "knn_evaluate")
    }
    assert len(rows["LM"].needed()) == 5, "a language model alone needs no datastore and no development text"
    assert "search" not in rows["LM + cache"].stages and "dev_queries" in rows["LM + cache"].stages


def test_rows__with_fixed_numbers_read_no_development_text() -> None:
    fixed = cells("evaluate.knn={k: 8, temperature: 1.0, weight: 0.25}")["LM + kNN"]
    assert not {role for role in fixed.stages if role.startswith("dev")}


def test_datastores__are_those_that_are_named() -> None:
    rows = cells(name="knn_lm_adaptation.yaml")
    training, other, both = (
        rows[f"Datastore of {name}"].stages for name in ("the training text", "the other domain", "both")
    )
    assert training["datastore_text"] == training["training_text"]
    assert other["datastore_text"].config["documents"].source.stream == "passages"
    assert both["datastore"].key == training["datastore"].key and both["datastore_2"].key == other["datastore"].key
    assert len({each["search"].key for each in (training, other, both)}) == 3


def test_datastore__of_a_fraction_keeps_the_model() -> None:
    rows = cells(name="knn_lm_datastore.yaml")
    small, whole = (rows[f"{share} % of the datastore"].stages for share in (1, 100))
    assert small["train"].key == whole["train"].key and small["queries"].key == whole["queries"].key
    assert small["datastore_text"].config["documents"].fraction == 0.01


def test_stages__have_other_keys_when_what_they_read_changes() -> None:
    before = keys()
    evaluate = {"knn_evaluate"}
    searches = {"search", "dev_search"}
    passes = {"queries", "dev_queries", "datastore"}
    expected = {
        "evaluate.knn.weight=0.3": evaluate,
        "search.k=64": {*searches, *evaluate},
        "datastore.key=output": {*passes, *searches, *evaluate},
        "datastore.dtype=float32": {"datastore", *searches, *evaluate},
        "datastore_fraction=0.5": {"datastore_text", "datastore", *searches, *evaluate},
        "model.layers=2": {"train", *passes, *searches, *evaluate},
        "evaluation_texts.wiki_articles.fraction=0.5": {"evaluation_text", "queries", "search", *evaluate},
        "tokenizer.vocab_size=999": set(before),
    }
    for setting, changed in expected.items():
        after = keys(setting)
        assert {role for role in before if before[role] != after[role]} == changed, setting


def test_stages__of_a_checkpoint_are_its_passes() -> None:
    gpt2 = ("tokenizer={kind: pretrained, name: gpt2}", "model={kind: pretrained, name: gpt2}")
    stages = cells(*gpt2)["LM + kNN"].stages
    assert "train" not in stages and "model" not in stages["datastore"].inputs
    changed = keys(*gpt2, content=lambda source: "x" if getattr(source, "name", "") == "gpt2" else "")
    before = keys(*gpt2)
    assert {"queries", "datastore", "search"} <= {role for role in before if before[role] != changed[role]}


def test_model__says_what_it_measures() -> None:
    experiment = table().rows["LM"]
    assert isinstance(experiment.model, ScratchDecoder)
    assert MODELS["knn_lm"].datasets(experiment) == ("wiki_articles", "wiki_recent", "encyclopedia")
    windows = "5 % of the documents, in windows of 128 tokens, 64 apart"
    keys = "keys: ffn_input in float16, 256 neighbours by exact search"
    assert knn_lm_measured_on(experiment, "encyclopedia") == windows
    assert table().measured_on("encyclopedia") == f"{windows}; {keys}"


MISTAKES = {
    "train.training.steps=0": "train.training.steps: found 0; write a number above 0",
    "train=null": "train: none, but the language model is from scratch; say how to train it",
    "training_text.part=[0.5, 0.2]": "training_text.part: found [0.5, 0.2]",
    "datastore.stride=200": "datastore.tokens: stride of 200 tokens; write a multiple of the chunk, 1, up to 128",
    "datastore.batch_size=0": "datastore.batch_size: found 0; write at least 1",
    "datastore.key=states": "datastore.key: found `states`",
    "datastores=[training, books]": "datastores: found ['training', 'books']; name one or more of training, more, other",
    "datastores=[]": "datastores: found []",
    "datastore_fraction=0": "datastore_fraction: found 0",
    "search.k=0": "search.k: found 0; write at least 1",
    "search.index={kind: ivf_pq, sub_quantizers: 7}": "search.index.sub_quantizers: 7 do not divide the width of 128",
    "search.index={kind: ivf_pq, probes: 0}": "search.index.probes: found 0; write at least 1",
    "evaluate.knn.k=300": "evaluate.knn.k: 300 neighbours, of 256 searched; write 1 to 256",
    "evaluate.knn.temperature=0": "evaluate.knn.temperature: found 0.0; write a number above 0, or `tuned`",
    "evaluate.knn.weight=1.5": "evaluate.knn.weight: found 1.5; lambda lies in [0, 1]",
    "evaluate.cache={weight: -0.1}": "evaluate.cache.weight: found -0.1; lambda lies in [0, 1]",
    "evaluate.cache={tokens: 0}": "evaluate.cache.tokens: found 0; write at least 1",
    "model.hidden_size=100": "model.hidden_size: 100 is no multiple of 2 * heads (4)",
    "model={kind: pretrained, name: gpt2}": "tokenizer.kind: found trained_bytes, but the language model is a"
    " checkpoint with a vocabulary of its own; write {kind: pretrained, name: gpt2}",
    "evaluation_texts.books={source: {kind: encyclopedia}}": "development_texts: none of books, on which to tune",
    "development_texts.encyclopedia.part=[0.9, 1.0]": "development_texts.encyclopedia.part: documents from 0.95 to 1 of"
    " the source are evaluated as encyclopedia, too; take others",
    "training_text.part=[0.0, 0.96]": "training_text.part: documents from 0.95 to 0.96 of the source are evaluated",
    "evaluate.cache={flatness: -5}": "evaluate.cache.flatness: found -5",
}  # fmt: skip


@pytest.mark.parametrize("setting", MISTAKES)
def test_check_knn_lm__when_fields_do_not_fit_together(setting: str) -> None:
    with pytest.raises(ConfigError) as raised:
        table(setting, rows=["LM + kNN"])
    assert MISTAKES[setting] in str(raised.value)


def test_check_knn_lm__when_the_tokenizer_is_of_another_checkpoint() -> None:
    with pytest.raises(
        ConfigError, match="tokenizer.name: found bert, but the language model reads its own; write gpt2"
    ):
        table("model={kind: pretrained, name: gpt2}", "tokenizer={kind: pretrained, name: bert}", rows=["LM + kNN"])


def test_check_knn_lm__when_a_datastore_holds_what_is_evaluated() -> None:
    same = "datastore_texts.other={source: {kind: encyclopedia, entities: 2000, stream: lives}, part: [0.9, 1.0]}"
    table(same, rows=["LM + kNN"])  # which nobody searches
    with pytest.raises(ConfigError, match=r"datastore_texts\.other\.part: documents from 0\.95 to 1 of the source are"):
        table(same, "datastores=[training, other]", rows=["LM + kNN"])


def test_check_knn_lm__when_windows_are_longer_than_a_checkpoint_reads(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_positions": 100}')
    named = (f"{part}={{kind: pretrained, name: {tmp_path}}}" for part in ("tokenizer", "model"))
    with pytest.raises(ConfigError, match=r"datastore\.tokens: windows of 128 tokens, .* has 100 positions; write at"):
        table(*named, rows=["LM + kNN"])
