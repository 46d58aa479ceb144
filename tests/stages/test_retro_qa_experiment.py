"""RETRO's table of answers: what rows share, what a key depends on, and mistakes found before anything runs."""

from pathlib import Path

import pytest

from rlm.errors import ConfigError
from rlm.retrieval.config import PretrainedEncoder
from rlm.stages.wire import pack, unpack
from rlm.table import AblationTable, distinct_stages, load_table

FOLDER = Path(__file__).parents[2] / "experiments"
TABLE = FOLDER / "retro_open_qa.yaml"


def table(*settings: str, scale: str = "tiny", **options) -> AblationTable:
    return load_table(TABLE, scale, settings=settings, **options)


def cells(*settings: str, content=lambda source: "", **options):
    return {cell.row: cell for cell in table(*settings, **options).cells(content)}


def keys(*settings: str, content=lambda source: "") -> dict[str, str]:
    found = cells(*settings, content=content, scale="small", datasets=["web_questions"])["RETRO"]
    return {role: stage.key for role, stage in found.stages.items()}


def test_distinct_stages__when_rows_share_a_model() -> None:
    rows = cells()
    names = [stage.name for stage, _ in distinct_stages(rows.values()).values()]
    assert {name: names.count(name) for name in names} == {
        **{"documents": 2, "chunk_index": 2, "neighbours": 1, "retro_train": 2, "questions": 1},
        **{"question_neighbours": 4, "retro_finetune": 4, "retro_answer": 4},
    }
    for row in ("Off", "BM25 passages"):
        assert rows[row].stages["train"] == rows["RETRO"].stages["train"]
    assert rows["Off"].stages["finetune"].inputs["passages"] == rows["RETRO"].stages["training_passages"]


@pytest.mark.parametrize("row", ["Off", "Base LM"])
def test_stages__of_a_closed_book_answer_without_passages(row) -> None:
    stages = cells()[row].stages
    assert stages["answer"].config["finetune"].k == stages["finetune"].config["finetune"].k == 0
    assert "passages" not in stages["answer"].inputs
    assert cells()["RETRO"].stages["answer"].inputs["passages"].config["split"] == "dev"


def test_stages__are_those_of_a_retro_table_up_to_its_training() -> None:
    """A model that was trained for perplexity is not trained again to answer."""
    (retro,) = load_table(FOLDER / "retro_neighbours.yaml", "tiny", rows=["2 neighbours"]).cells(lambda source: "")
    answers = cells()["RETRO"].stages
    for role in ("training_text", "corpus", "index", "neighbours", "train"):
        assert answers[role] == retro.stages[role]


def test_stages__have_other_keys_when_what_they_read_changes() -> None:
    before = keys()
    of_passages = {"training_passages", "passages", "finetune", "answer"}
    expected = {
        "finetune.k=1": {"finetune", "answer"},
        "answer.split=dev": {"passages", "answer"},
        "answer.batch_size=3": {"answer"},
        "passages.k=9": of_passages,
        "passages.index={kind: bm25}": {"passage_index", *of_passages},
        "questions.web_questions.train_limit=9": {"questions", *of_passages},
        "neighbours.k=5": {"neighbours", "train", "finetune", "answer"},
        "evaluate.k=1": set(),
    }
    for setting, changed in expected.items():
        after = keys(setting)
        assert {role for role in before if before[role] != after[role]} == changed, setting
    encoder = keys(content=lambda source: "x" if isinstance(source, PretrainedEncoder) else "")
    same = {"training_text", "corpus", "questions"}
    assert {role for role in before if before[role] == encoder[role]} == same


def test_questions__of_the_built_in_world_are_about_the_one_that_is_read() -> None:
    """Names and facts depend on how many entities there are."""
    row = table().rows["RETRO"]
    source = row.questions["encyclopedia"].source
    assert (source.entities, source.world_seed) == (row.corpus.source.entities, row.corpus.source.world_seed)


def test_unpack__when_packed() -> None:
    for cell in cells().values():
        assert unpack(pack(cell.stages["answer"])) == cell.stages["answer"]


def test_measured_on__tells_how_many_are_asked() -> None:
    assert table().measured_on("encyclopedia") == "the dev split"
    assert table(scale="small").measured_on("nq_open") == "the test split, at most its first 1,000 questions"


MISTAKES = {
    "finetune.training.steps=0": "finetune.training.steps: found 0; write a number above 0",
    "finetune.k=-1": "finetune.k: found -1; write 0 (none) or more",
    "finetune.k=21": "finetune.k: reads 21 passages, of 4 found; raise passages.k",
    "passages.k=0": "passages.k: found 0; write at least 1",
    "finetune.prompt_chunks=0": "finetune.prompt_chunks: found 0; write at least 1",
    "finetune.passage_tokens=0": "finetune.passage_tokens: found 0; write at least 1, or null",
    "finetune.answer_tokens=17": "finetune.answer_tokens: found 17; write 2 (a token and the end) to 16",
    "finetune.answer_tokens=1": "finetune.answer_tokens: found 1; write 2",
    "answer.batch_size=0": "answer.batch_size: found 0; write at least 1",
    "answer.split=train": "answer.split: found `train` (text); ",
    "passages.index={kind: sparse}": "passages.index.kind: found `sparse` (text); Known: bm25, ",
    "train.tokens=16": "train.tokens: sequences of 16 tokens are not longer than one chunk of 16",
}  # fmt: skip


@pytest.mark.parametrize("setting", MISTAKES)
def test_check_retro_qa__when_fields_do_not_fit_together(setting: str) -> None:
    with pytest.raises(ConfigError) as raised:
        table(setting, rows=["RETRO"])
    assert MISTAKES[setting] in str(raised.value)
    if "{" not in setting:
        assert f"--set {setting}: " in str(raised.value), "the place is told"


def test_check_retro_qa__when_a_frozen_decoder_would_learn_from_nothing() -> None:
    gpt2 = ("tokenizer={kind: pretrained, name: gpt2}", "model.decoder={kind: pretrained, name: gpt2}")
    for setting in ("finetune.k=0", "model.cca_layers=[]"):
        with pytest.raises(ConfigError, match="finetune.k: reads no passages, and the decoder gpt2 never changes"):
            table(*gpt2, setting)


def test_check_retro_qa__when_passages_need_an_encoder() -> None:
    bm25 = ("chunks.encoder=null", "chunks.index={kind: bm25}")
    assert table(*bm25).rows["RETRO"].passages.index is None
    with pytest.raises(ConfigError, match="chunks.encoder: none; name one"):
        table(*bm25, "passages.index={kind: exact}")
