"""kNN-MT's table: what rows share, what a key depends on, and mistakes that are found before anything runs."""

from pathlib import Path

import pytest

from rlm.data.parallel_config import ParallelConfig, PhrasebookSource
from rlm.errors import ConfigError
from rlm.metrics.translation import signatures
from rlm.models.config import Training
from rlm.models.translation_config import PretrainedTranslator, TranslationTraining
from rlm.stages import knn_mt_experiment
from rlm.stages.knn_mt_experiment import DomainConfig, KnnMtExperiment, check_knn_mt, knn_mt_stages
from rlm.stages.wire import pack, unpack
from rlm.table import AblationTable, distinct_stages, load_table

TABLE = Path(__file__).parents[2] / "experiments" / "knn_mt.yaml"


def table(*settings: str, scale: str = "tiny", **options) -> AblationTable:
    return load_table(TABLE, scale, settings=settings, **options)


def cells(*settings: str, dataset: str = "law", content=lambda source: "", **options):
    found = table(*settings, **options).cells(content)
    return {cell.row: cell for cell in found if cell.dataset == dataset}


def keys(*settings: str, row: str = "+ kNN", **options) -> dict[str, str]:
    return {role: stage.key for role, stage in cells(*settings, **options)[row].stages.items()}


FROZEN = {
    "training_text": "parallel-ad7717608df480a3",
    "train": "mt_train-9d837a612f083f2c",
    "test": "parallel-189cff5c41572a04",
    "translate": "mt_translate-c99ed0cce3ec9b8d",
    "score": "mt_score-d79a9dcae6eff5f5",
    "elsewhere_test": "parallel-189cff5c41572a04",
    "elsewhere_translate": "mt_translate-c99ed0cce3ec9b8d",
    "elsewhere_score": "mt_score-d79a9dcae6eff5f5",
    "datastore_0": "mt_datastore-0ded36d9a13ddfdc",
}


def test_key__when_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    # If this fails, every store in use becomes stale: a changed rule of hashing needs a reason.
    monkeypatch.setattr(knn_mt_experiment, "version", lambda name: "2.6.0")
    book = {split: ParallelConfig(source=PhrasebookSource(split=split, sentences=50)) for split in ("train", "test")}
    experiment = KnnMtExperiment(
        domains={"general": DomainConfig(**book, elsewhere="law"), "law": DomainConfig(**book, elsewhere="general")},
        training=("general",),
        train=TranslationTraining(training=Training(steps=10, batch_size=4, learning_rate=1e-3)),
    )
    assert check_knn_mt(experiment) == []
    stages = knn_mt_stages(experiment, "general", 3, lambda source: "")
    assert {role: stage.folder for role, stage in stages.items()} == FROZEN


def test_distinct_stages__when_rows_share_a_model() -> None:
    rows = cells()
    names = [stage.name for stage, _ in distinct_stages(rows.values()).values()]
    # trained on, two tests, and three datastores: own, a tenth of it, wrong
    assert {name: names.count(name) for name in names} == {
        **{"parallel": 6, "mt_train": 1, "mt_datastore": 3, "mt_translate": 16, "mt_score": 16}
    }
    assert len({cell.stages["train"].key for cell in rows.values()}) == 1
    assert rows["Own and wrong datastores"].stages["datastore_0"].key == rows["+ kNN"].stages["datastore_0"].key
    assert (
        rows["Own and wrong datastores"].stages["datastore_1"].key == rows["Wrong datastore"].stages["datastore_0"].key
    )


def test_distinct_stages__when_rows_search_by_one_index() -> None:
    rows = load_table(TABLE.with_name("knn_mt_search.yaml"), "tiny").cells(lambda source: "")
    names = [s.name for s, _ in distinct_stages(cell for cell in rows if cell.dataset == "law").values()]
    assert {name: names.count(name) for name in names} == {
        **{"parallel": 4, "mt_train": 1, "mt_datastore": 1, "datastore_index": 1, "mt_translate": 8, "mt_score": 8}
    }


def test_stages__of_the_model_alone_do_not_depend_on_datastores() -> None:
    settings = ("datastore.fraction=0.5", "search={kind: faiss_flat}", "decode.knn.k=3")
    one, other = cells()["Base MT"], cells(*settings)["Base MT"]
    assert {role: stage.key for role, stage in one.stages.items()} == {r: s.key for r, s in other.stages.items()}
    assert {stage.name for stage in one.needed().values()} == {"parallel", "mt_train", "mt_translate", "mt_score"}
    law, medicine = (cells(dataset=name)["Base MT"].stages["elsewhere_score"] for name in ("law", "medicine"))
    assert law.key == medicine.key, "the general test is translated once"


def test_stages__have_other_keys_when_what_they_read_changes() -> None:
    before = keys()
    read = {"translate", "score", "elsewhere_translate", "elsewhere_score"}
    expected = {
        "decode.knn.temperature=3": read,
        "search={kind: ivf_pq, rerank: 0}": read,
        "datastore.fraction=0.5": {"datastore_0", *read},
        "datastore.key=output": {"datastore_0", *read},
        "domains.law.test.fraction=0.5": {"test", "translate", "score"},
        "domains.law.train.fraction=0.5": {"datastore_0", *read},
        "train.label_smoothing=0.2": {"train", "datastore_0", *read},
        "tokenizer.vocab_size=999": set(before),
    }
    for setting, changed in expected.items():
        after = keys(setting)
        assert {role for role in before if before[role] != after[role]} == changed, setting


def test_stages__have_other_keys_when_files_change() -> None:
    options = {"scale": "small", "dataset": "software"}
    before = keys(**options)
    changed = keys(**options, content=lambda source: "x" if "multi30k.test" in str(source) else "")
    assert {role for role in before if before[role] != changed[role]} == {
        *("elsewhere_test", "elsewhere_translate", "elsewhere_score")
    }
    paper = {"scale": "paper", "dataset": "software"}
    weights = keys(**paper, content=lambda source: "x" if isinstance(source, PretrainedTranslator) else "")
    assert {r for r, key in keys(**paper).items() if key != weights[r]} == {
        *("datastore_0", "translate", "score", "elsewhere_translate", "elsewhere_score")
    }


def test_score__is_counted_again_by_another_sacrebleu(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys()
    monkeypatch.setattr(knn_mt_experiment, "version", lambda name: "9")
    assert {role for role, key in keys().items() if key != before[role]} == {"score", "elsewhere_score"}


def test_unpack__when_packed() -> None:
    for cell in cells().values():
        stage = cell.stages["score"]
        assert unpack(pack(stage)) == stage


def test_columns__always_hold_what_a_datastore_costs_elsewhere(tmp_path: Path) -> None:
    text = TABLE.read_text().replace("columns: [bleu, elsewhere_bleu, chrf, tokens_per_second]", "columns: [chrf]")
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "knn_mt.yaml").write_text(text)
    for name in ("base", "scale"):
        (folder / name).symlink_to(TABLE.parent / name)
    found = load_table(folder / "knn_mt.yaml", "tiny")
    assert found.columns == ("chrf", "elsewhere_bleu")
    assert all("elsewhere_score" in cell.leaves for cell in found.cells(lambda source: ""))


def test_measured_on__tells_all_that_figures_depend_on() -> None:
    found = table().measured_on("law")
    assert signatures()["bleu"] in found, "as the stage writes it"
    for part in ("the test pairs of law, elsewhere those of general", "beams of 4", "k = 2, T = ", "exact search"):
        assert found.count(part) == 1 or part == "exact search", part


@pytest.mark.parametrize("scale", ["tiny", "small", "mini", "paper"])
def test_table__is_whole_at_every_scale(scale: str) -> None:
    assert set(table(scale=scale).rows) == set(cells())


MISTAKES = {
    "decode.knn.weight=1.5": "decode.knn.weight: lambda is 1.5; write a number from 0",
    "decode.knn.temperature=0": "decode.knn.temperature: found 0.0; write a number above 0",
    "decode.knn.k=0": "decode.knn.k: found 0; write at least 1",
    "decode.beams=0": "decode.beams: found 0; write at least 1",
    "decode.max_tokens=64": "decode.max_tokens: 64 tokens, the model writes fewer than 64",
    "datastore.fraction=0": "datastore.fraction: found 0.0; write a share above 0",
    "datastore.of=[laws]": "datastore.of: no domain `laws`; did you mean `law`?",
    "domains.law.wrong=null": "domains.law.wrong: none, but `datastore.of` asks for `wrong`; name a domain",
    "domains.law.test.longest=0": "domains.law.test.longest: found 0; write a number of tokens, or null",
    "datastore.of=[]": "datastore.of: names no domain",
    "datastore.of=[own, own]": "datastore.of: found ['own', 'own']; name each once",
    "domains.law.elsewhere=law": "domains.law: the domain, `elsewhere` (law) and `wrong` (medicine) must be different",
    "domains.law.elsewhere=medicine": "domains.law: the domain, `elsewhere` (medicine) and `wrong` (medicine) must be",
    "search={kind: ivf_pq, sub_quantizers: 48}": "search.sub_quantizers: 48 do not divide the width of 128",
    "domains.law.elsewhere=x": "domains.law.elsewhere: no domain `x`",
    "domains.law.train.part=[0.5, 0.2]": "domains.law.train.part: found [0.5, 0.2]",
    "domains.law.test.fraction=2": "domains.law.test.fraction: found 2",
    "training=[]": "train: a model from scratch has to be trained",
    "train.training.steps=0": "train.training.steps: found 0",
    "train.label_smoothing=1": "train.label_smoothing: found 1",
    "model.heads=3": "model.hidden_size: 128 is no even multiple of 3 heads",
    "model.layers=0": "model.layers: found 0",
    "model={kind: pretrained, name: x}": "tokenizer.kind: found trained_pairs, but the model is a checkpoint",
    "datastore.key=input": "datastore.key: ",
}


@pytest.mark.parametrize("setting", MISTAKES)
def test_check_knn_mt__when_fields_do_not_fit_together(setting: str) -> None:
    with pytest.raises(ConfigError) as raised:
        table(setting, rows=["+ kNN"])
    assert MISTAKES[setting] in str(raised.value)


def test_check_knn_mt__when_the_tokenizer_is_of_another_checkpoint() -> None:
    with pytest.raises(ConfigError, match="tokenizer.name: found t5, but the model reads its own; write Helsinki-NLP"):
        table("tokenizer.name=t5", scale="paper")
