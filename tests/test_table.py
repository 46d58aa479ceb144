import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rlm.data.config import EncyclopediaSource
from rlm.errors import ConfigError
from rlm.retrieval.config import PretrainedEncoder
from rlm.stages.models import MODELS
from rlm.stages.stage import Stage
from rlm.table import AblationTable, distinct_stages, load_table
from tests.fakes import language_model

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "tests" / "fakes" / "experiments"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(EXPERIMENTS, tmp_path / "experiments")
    return tmp_path / "experiments"


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _no_content(source: object) -> str:
    return ""


def _errors(path: Path, **options: object) -> str:
    with pytest.raises(ConfigError) as raised:
        load_table(path, **options)  # type: ignore[arg-type]
    return str(raised.value)


def test_load_table__when_all_is_right(folder: Path) -> None:
    table = load_table(folder / "table.yaml")
    assert (table.name, table.title, table.scale, table.baseline) == ("table", "Ablations", "tiny", "REALM")
    assert table.datasets == ("encyclopedia",)
    assert len(table.rows) == 7
    assert table.rows["REALM"].pretrain.candidates == 5, "of the scale"
    assert table.rows["30x stale MIPS"].pretrain.index_refresh.staleness == 30
    assert table.rows["Baseline (ORQA)"].finetune.retriever_from == "ict"
    assert table.trends[0].order == ("REALM", "Baseline (ORQA)")
    assert table.reported == {"REALM": {"nq_open": {"exact_match": 38.2}}}
    assert table.reported_source == "Table 2"


def test_load_table__when_options_overlay_it(folder: Path) -> None:
    table = load_table(
        folder / "table.yaml",
        rows=["REALM", "30x stale MIPS"],
        seeds=[3, 4],
        settings=["pretrain.candidates=7", "corpus.source={kind: files, files: [a.jsonl]}"],
    )
    assert list(table.rows) == ["REALM", "30x stale MIPS"]
    assert table.seeds == (3, 4)
    assert table.rows["REALM"].pretrain.candidates == 7, "--set wins over the scale"
    assert not isinstance(table.rows["REALM"].corpus.source, EncyclopediaSource)


def test_distinct_stages__when_table_2_shares_work(folder: Path) -> None:
    table = load_table(folder / "table.yaml")
    stages = distinct_stages(table.cells(_no_content))
    names = [stage.name for stage, _ in stages.values()]
    counts = {name: names.count(name) for name in names}
    # Four ways to pre-train, five retrievers (ICT's too), seven readers.
    assert counts == {
        "corpus": 1,
        "salient_spans": 1,
        "questions": 1,
        "ict": 1,
        "warm_start": 1,
        "pretrain": 4,
        "index": 5,
        "zero_shot": 5,
        "finetune": 7,
        "evaluate": 7,
    }
    seen: set[str] = set()
    for key, (stage, _) in stages.items():
        assert {source.key for source in stage.inputs.values()} <= seen, "inputs come first"
        seen.add(key)


def test_distinct_stages__when_rows_share_a_retriever_they_share_zero_shot(folder: Path) -> None:
    cells = {cell.row: cell for cell in load_table(folder / "table.yaml").cells(_no_content)}
    shared = cells["REALM"].stages["zero_shot"].key
    assert cells["REALM retriever + baseline encoder"].stages["zero_shot"].key == shared
    assert cells["Baseline retriever + REALM encoder"].stages["zero_shot"].key != shared


def test_distinct_stages__when_a_row_does_not_need_pretraining(folder: Path) -> None:
    table = load_table(folder / "table.yaml", rows=["Baseline (ORQA)"])
    names = {stage.name for stage, _ in distinct_stages(table.cells(_no_content)).values()}
    assert "pretrain" not in names


def test_cells__when_the_files_of_a_checkpoint_change() -> None:
    """A folder is no name for what is in it."""
    table = load_table(
        ROOT / "experiments" / "realm_table2.yaml", "small", rows=["REALM"], settings=["warm_start=null"]
    )

    def stages(content: str) -> dict[str, Stage]:
        (cell,) = table.cells(lambda source: content if isinstance(source, PretrainedEncoder) else "")
        return cell.stages

    before, after = stages(""), stages("other weights")
    assert {role for role in before if before[role].content != after[role].content} == {"ict", "pretrain"}
    assert all(before[role].key != after[role].key for role in ("ict", "pretrain", "index", "finetune", "evaluate"))
    assert before["corpus"].key == after["corpus"].key


def test_cells__when_there_are_seeds_and_files_change(folder: Path) -> None:
    table = load_table(folder / "table.yaml", seeds=[0, 1])
    assert len(table.cells(_no_content)) == 14
    before = distinct_stages(table.cells(_no_content))
    after = distinct_stages(table.cells(lambda source: "changed" if isinstance(source, EncyclopediaSource) else ""))
    shared = {stage.name for key, (stage, _) in before.items() if key in after}
    assert shared == set(), "everything stands on the corpus or the questions"


# What is replaced in the table file, by what, and the message.
MISTAKES = {
    "unknown field": ("REALM: {}", "REALM: {finetune.encoder_form: bert}", "table.yaml:6: finetune.encoder_form: no such"
                      " field of FinetuneConfig; did you mean `encoder_from`?"),
    "unknown value": ("encoder_from: bert}", "encoder_from: bart}", "finetune.encoder_from: found `bart` (text); did you"
                      " mean `bert`? Known: bert, pretrain"),
    "wrong type": ("staleness: 30", "staleness: often", "table.yaml:12: pretrain.index_refresh.staleness: found `often`"
                   " (text); write a whole number"),
    "runtime in a row": ("REALM: {}", "REALM: {runtime.devices: 2}", "table.yaml:6: row `REALM`: `runtime` cannot"),
    "row name twice": ("30x stale MIPS:", "REALM:", "table.yaml:12: `REALM` was already given in line 6"),
    "base missing": ("base/base.yaml", "base/bose.yaml", "table.yaml:2: base: no file"),
    "syntax": ("REALM: {}", "REALM: {", "table.yaml:8: not YAML: "),
    "baseline": ("baseline: REALM", "baseline: REALMS", "table.yaml:4: baseline: no `REALMS`; did you mean `REALM`?"),
    "trend's row": ("REALM > Baseline", "REALM > Beseline", "table.yaml:14: trends: no `Beseline (ORQA)`; did you mean"
                    " `Baseline (ORQA)`?"),
    "trend's column": ("- exact_match", "- exact_mutch", "table.yaml:14: trends: no `exact_mutch`; did you mean"),
    "trend of one row": ("REALM > Baseline (ORQA)", "REALM>Baseline", "has one row; write `ROW > ROW`, with spaces"),
    "column": ("[exact_match,", "[exact_mutch,", "table.yaml:3: columns: no `exact_mutch`; did you mean `exact_match`?"),
    "column without a number": ("recall@5]", "recall@]", "columns: no `zero_shot_recall@`; did you mean"),
    "column that is not measured": ("recall@5]", "recall@7]", "columns: no `zero_shot_recall@7`; did you mean"),
    "column that one row does not measure": (
        "  REALM: {}", "  REALM: {evaluate.recall_at: [1]}", "columns in row `REALM`: no `zero_shot_recall@5`"),
    "reported row": ("  REALM: {nq_open", "  RELM: {nq_open", "table.yaml:17: reported: no `RELM`; did you mean `REALM`?"),
    "reported number": ("38.2", "thirty", "reported.REALM.nq_open.exact_match: found `thirty` (text); write a number"),
    "unknown table field": ("baseline:", "base_line:", "table.yaml:4: base_line: no such field of a table; did you mean"
                            " `baseline`?"),
    "unknown model": ("title:", "model: relm\ntitle:", "table.yaml:1: model: found `relm`; did you mean `realm`?"),
    "one candidate": ("REALM: {}", "REALM: {pretrain.candidates: 1}", "table.yaml:6: pretrain.candidates: found 1;"
                      " write at least 2"),
    "passage too long": ("REALM: {}", "REALM: {pretrain.passage_tokens: 600}", "pretrain.passage_tokens: 600 and"
                         " query_tokens 96 make 696 word pieces, the encoder reads 512"),
    "kind missing": ("REALM: {}", "REALM: {index.dtype: float32}", "index: `kind` is missing; write kind: exact |"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_load_table__when_the_file_is_wrong(folder: Path, name: str) -> None:
    old, new, message = MISTAKES[name]
    _edit(folder / "table.yaml", old, new)
    assert message in _errors(folder / "table.yaml")


def test_load_table__when_the_base_is_wrong_it_is_told_once(folder: Path) -> None:
    _edit(folder / "base" / "base.yaml", "kind: scratch}", "kind: scratch, layer: 2}")
    lines = _errors(folder / "table.yaml").splitlines()
    assert len(lines) == 1
    assert re.search(r"base.yaml:\d+: encoder.layer: no such field of ScratchEncoder; did you mean `layers`", lines[0])


def test_load_table__when_names_of_options_are_unknown(folder: Path) -> None:
    table = folder / "table.yaml"
    assert "--scale tny: no file" in _errors(table, scale="tny")
    assert "did you mean `tiny`?" in _errors(table, scale="tny")
    assert "--rows: rows: no `RELM`; did you mean `REALM`?" in _errors(table, rows=["RELM"])
    assert "--datasets: datasets: no `encyclopaedia`; did you mean `encyclopedia`?" in _errors(
        table, datasets=["encyclopaedia"]
    )
    assert "--set pretrain.candidate=4: pretrain.candidate: no such field" in _errors(
        table, settings=["pretrain.candidate=4"]
    )
    assert "--set runtime.devices=2: runtime: --set may not set it" in _errors(table, settings=["runtime.devices=2"])


def test_load_table__when_the_scale_is_wrong(folder: Path) -> None:
    _edit(folder / "scale" / "tiny.yaml", "datasets: [encyclopedia]", "datasets: [encyclopedie]\nconfigs: {}")
    message = _errors(folder / "table.yaml")
    assert "tiny.yaml:2: configs: no such field of a scale; did you mean `config`?" in message
    _edit(folder / "scale" / "tiny.yaml", "\nconfigs: {}", "")
    message = _errors(folder / "table.yaml")
    assert "tiny.yaml:1: datasets: no `encyclopedie`; did you mean `encyclopedia`?" in message


def test_load_table__when_there_is_nothing_to_run(folder: Path) -> None:
    (folder / "scale" / "tiny.yaml").unlink()
    assert "datasets: none given" in _errors(folder / "table.yaml")
    text = (folder / "table.yaml").read_text()
    (folder / "table.yaml").write_text(text[: text.index("rows:")])
    assert "rows: none given" in _errors(folder / "table.yaml")


CHECKS = {
    "pretrain.training.steps=0": "pretrain.training.steps: found 0; write a number above 0",
    "encoder.hidden_size=127": "encoder.hidden_size: 127 is no multiple of 2 heads",
    "encoder.max_positions=60": "encoder.max_positions: found 60; write a multiple of 8",
    "salient_spans={kind: token_classification, name: x, train_files: [a], epochs: 0}": "salient_spans.epochs: found 0",
    "finetune.passages_read=0": "finetune.passages_read: found 0",
    "evaluate.recall_at=[]": "evaluate.recall_at: write at least one",
    "pretrain.index_refresh.swap_after=3": "pretrain.index_refresh.swap_after: only read where mode is async",
    "retriever.passage_tokens=600": "retriever.passage_tokens: 600 word pieces, the encoder reads 512",
    "finetune.passage_tokens=480": "finetune.passage_tokens: 480 and retriever.query_tokens 64 make 544",
    "index={kind: ivf_pq, sub_quantizers: 60}": "index.sub_quantizers: 60 do not divide the width of 128",
    "evaluate.batch_size=0": "evaluate.batch_size: found 0",
    "pretrain.index_refresh.measure_every=0": "pretrain.index_refresh: write a `measure_every` of at least 1",
    "pretrain.index_refresh={agreement_below: 0.5, probes: 0}": "pretrain.index_refresh.probes: agreement is measured",
    "encoder={kind: pretrained, name: x}": "finetune.passage_tokens: 500 and retriever.query_tokens 64 make 564",
    "corpus={source: {kind: files, files: [a], limit: 3}, packing: as_is}": "pretrain.candidates: 5 passages are asked"
    " of a corpus of 3",
}  # fmt: skip


@pytest.mark.parametrize("setting", CHECKS)
def test_check_realm__when_fields_do_not_fit_together(folder: Path, setting: str) -> None:
    settings = [setting, "finetune.passage_tokens=500"] if "pretrained" in setting else [setting]
    message = _errors(folder / "table.yaml", settings=settings)
    assert CHECKS[setting] in message
    if setting.count("=") == 1 and "{" not in setting:
        assert f"--set {setting}" in message, "the place is told"


def test_load_table__when_the_shipped_tables_are_read(root: Path) -> None:
    for path in (root / "experiments").glob("*.yaml"):
        folders = yaml.safe_load(path.read_text()).get("scales", "scale")
        folders = folders if isinstance(folders, list) else [folders]
        scales = {scale.stem for folder in folders for scale in (path.parent / folder).glob("*.yaml")}
        assert {"tiny", "small"} <= scales
        for scale in scales:
            table = load_table(path, scale)
            assert isinstance(table, AblationTable)
            assert all(MODELS[table.model].check(row) == [] for row in table.rows.values())


def test_load_table__when_bases_and_scales_lie_over_one_another(folder: Path) -> None:
    _edit(
        folder / "table.yaml", "base: base/base.yaml", "base: [base/base.yaml, base/more.yaml]\nscales: [scale, over]"
    )
    (folder / "base" / "more.yaml").write_text("ict: {keep_sentence: 0.7}\npretrain: {candidates: 9}\n")
    (folder / "over").mkdir()
    (folder / "over" / "tiny.yaml").write_text("seeds: [7]\nconfig: {finetune: {passages_read: 3}}\n")
    (folder / "over" / "other.yaml").write_text("datasets: [encyclopedia]\n")
    table = load_table(folder / "table.yaml", "tiny", rows=["REALM"])
    realm = table.rows["REALM"]
    assert (realm.ict.keep_sentence, realm.finetune.passages_read, table.seeds) == (0.7, 3, (7,))
    assert realm.pretrain.candidates == 5, "every scale lies over every base"
    assert load_table(folder / "table.yaml", "other", rows=["REALM"]).rows["REALM"].pretrain.candidates == 9
    (folder / "over" / "tiny.yaml").write_text("config: {finetune: {passages_reed: 3}}\n")
    assert "over/tiny.yaml:1: finetune.passages_reed: no such field" in _errors(folder / "table.yaml")
    _edit(folder / "table.yaml", "base/more.yaml", "base/mare.yaml")
    assert f"base: no file {folder / 'base' / 'mare.yaml'};" in _errors(folder / "table.yaml")
    _edit(folder / "table.yaml", "[base/base.yaml, base/mare.yaml]", "[]")
    assert "base: no file" in _errors(folder / "table.yaml")


# What is replaced in the table of the model with documents, by what, and the message.
OTHER_MISTAKES = {
    "data set": ("datasets: [wiki]", "datasets: [wikie]", "neighbours.yaml:6: datasets: no `wikie`; did you mean `wiki`?"),
    "column of another model": ("[bits_per_byte, perplexity]", "[exact_match]", "columns: no `exact_match`; "),
    "trend in both directions": ("two < one < Off", "two < one > Off", "neighbours.yaml:15: trends: `two < one > Off` has"
                                 " both > and <; write a trend for each direction"),
    "trend without spaces": ("two < one < Off", "two<one", "`two<one` has one row; write `ROW > ROW`, with spaces around >,"
                             " or `ROW < ROW`"),
    "trend's row": ("two < one < Off", "two < ona", "neighbours.yaml:15: trends: no `ona`; did you mean `one`?"),
    "check": ("{neighbours: 1}", "{neighbours: -1}", "neighbours.yaml:12: neighbours: found -1; write 0 or more"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_MISTAKES)
def test_load_table__when_the_file_of_another_model_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    language_model.install(monkeypatch)
    old, new, message = OTHER_MISTAKES[name]
    assert message in _errors(language_model.write_table(tmp_path, (old, new)))


def test_load_table__when_the_model_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model.install(monkeypatch)
    table, cells = language_model.read_table(tmp_path, datasets=["wiki", "news"])
    assert [(trend.relation, trend.order) for trend in table.trends] == [
        ("<", ("two", "one", "Off")),
        (">", ("Off", "two")),
    ]
    assert table.measured_on("news") == "the first 30 of the test split"
    names = [stage.name for stage, _ in distinct_stages(cells).values()]
    assert {name: names.count(name) for name in names} == {"fake_text": 2, "fake_train": 6, "fake_perplexity": 12}


def test_cells__need_what_the_columns_and_trends_read(folder: Path) -> None:
    def roles() -> set[str]:
        return {role for cell in load_table(folder / "table.yaml").cells(_no_content) for role in cell.leaves}

    assert roles() == {"zero_shot", "evaluate"}
    _edit(folder / "table.yaml", "[exact_match, zero_shot_recall@5]", "[zero_shot_recall@5]")
    assert roles() == {"zero_shot", "evaluate"}, "of a trend"
    _edit(folder / "table.yaml", "- exact_match: REALM", "- zero_shot_recall@5: REALM")
    cells = load_table(folder / "table.yaml").cells(_no_content)
    assert all(cell.leaves == ("zero_shot",) for cell in cells)
    assert not {"finetune", "evaluate"} & {stage.name for stage, _ in distinct_stages(cells).values()}


def test_load_table__when_no_column_is_named_the_model_s_first_is_shown(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language_model.install(monkeypatch)
    path = language_model.write_table(tmp_path, ("columns: [bits_per_byte, perplexity]\n", ""))
    assert load_table(path).columns == ("bits_per_byte",)
    _edit(folder / "table.yaml", "columns: [exact_match, zero_shot_recall@5]\n", "")
    assert load_table(folder / "table.yaml").columns == ("exact_match",)


# What is replaced in the table file, by what, and the message.
MORE_MISTAKES = {
    "column twice": ("[exact_match,", "[exact_match, exact_match,", "table.yaml:3: columns: exact_match is given twice; keep"),
    "row twice in a trend": ("REALM > Baseline (ORQA)", "REALM > Baseline (ORQA) > REALM", "table.yaml:14: trends: REALM is"
                             " given twice; keep one"),
    "title of two lines": ("title: Ablations", 'title: "Abla\\ntions"', "table.yaml:1: title: found `Abla\\ntions` with the"
                           " character U+000A; write it in one line"),
    "empty baseline": ("baseline: REALM", "baseline: ''", "table.yaml:4: baseline: found ``; write a name"),
    "trends of text": ("trends:\n  - exact_match: REALM > Baseline (ORQA)", "trends: ''", "trends: found ``; write `- COLUMN: ROW > ROW`"),
    "source that is a mapping": ('source: "Table 2"', "source: {a: 1}", "reported.source: found `{\"a\": 1}` (mapping); write text"),
    "source of two lines": ('source: "Table 2"', 'source: "Table\\t2"', "reported.source: found `Table\\t2` with the character"
                            " U+0009"),
    "base that is itself": ("base/base.yaml", "../experiments/table.yaml", "table.yaml:2: base: is this file itself"),
    "base that is a folder": ("base/base.yaml", "base", "table.yaml:2: base: no file"),
    "base that cannot be": ("base/base.yaml", '"a\\0b"', "table.yaml:2: base: found `a\\x00b`; it holds the character"),
    "base of a long name": ("base/base.yaml", "x" * 300, "table.yaml:2: base: found `xxx"),
    "scales that cannot be": ("baseline:", 'scales: "a\\0b"\nbaseline:', "table.yaml:4: scales: found `a\\x00b`; it holds"),
}  # fmt: skip


@pytest.mark.parametrize("name", MORE_MISTAKES)
def test_load_table__when_the_file_is_wrong_in_other_ways(folder: Path, name: str) -> None:
    old, new, message = MORE_MISTAKES[name]
    _edit(folder / "table.yaml", old, new)
    assert message in _errors(folder / "table.yaml")


def test_load_table__when_what_counts_is_given_twice(folder: Path) -> None:
    table, scale = folder / "table.yaml", folder / "scale" / "tiny.yaml"
    assert _errors(table, seeds=[0, 1, 0]) == "--seeds: 0 is given twice; keep one"
    assert _errors(table, seeds=[-1]) == "--seeds: found -1; write whole numbers from 0 to 4294967295"
    assert _errors(table, rows=["REALM", "REALM"]) == "--rows: REALM is given twice; keep one"
    assert _errors(table, datasets=["encyclopedia"] * 2) == "--datasets: encyclopedia is given twice; keep one"
    _edit(scale, "seeds: [0]", "seeds: [3, 3]")
    assert _errors(table) == f"{scale}:2: seeds: 3 is given twice; keep one"
    _edit(scale, "seeds: [3, 3]", "seeds: [4294967296]")
    assert _errors(table) == f"{scale}:2: seeds: found 4294967296; write whole numbers from 0 to 4294967295"
    scale.unlink()
    _edit(table, "baseline:", "datasets: [encyclopedia, encyclopedia]\nbaseline:")
    assert _errors(table) == f"{table}:4: datasets: encyclopedia is given twice; keep one"


def test_load_table__when_no_row_can_be_built_the_baseline_is_not_blamed(folder: Path) -> None:
    _edit(folder / "table.yaml", "baseline: REALM\n", "")
    assert load_table(folder / "table.yaml").baseline == "REALM"
    assert load_table(folder / "table.yaml", rows=["30x stale MIPS"]).baseline == "REALM", "the first that is written"
    assert _errors(folder / "table.yaml", settings=["pretrain.candidate=4"]).count("\n") == 0


def test_load_table__when_a_scale_is_a_folder(folder: Path) -> None:
    (folder / "scale" / "huge.yaml").mkdir()
    assert "--scale huge: no file" in _errors(folder / "table.yaml", scale="huge")


def test_report__has_no_folder_in_its_name(folder: Path) -> None:
    table = load_table(folder / "table.yaml", datasets=["encyclopedia"])
    assert table.report == "tiny-encyclopedia"
    assert replace(table, chosen=("a/b", "../c")).report == "tiny-a-b-..-c"
