"""Whatever a table file, a base, a scale or an argument holds, there is a plan, or one message."""

import io
import os
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rlm.cli import main
from rlm.errors import ConfigError
from rlm.overlay import merge, nest
from rlm.yaml_file import Document, parse_yaml

BASES = {
    "knn_lm": """
training_text: {source: {kind: encyclopedia}, part: [0, 0.8]}
datastore_texts: {other: {source: {kind: encyclopedia, world_seed: 1}}}
datastores: [training]
datastore_fraction: 1.0
development_texts: {small: {source: {kind: encyclopedia}, part: [0.8, 0.9]}}
evaluation_texts: {small: {source: {kind: encyclopedia}, part: [0.9, 1]}}
tokenizer: {kind: trained_bytes, vocab_size: 300}
model: {kind: scratch, layers: 1, hidden_size: 16, heads: 2}
train: {training: {steps: 2, batch_size: 2, learning_rate: 1.0e-3, warmup_steps: 1}, tokens: 16}
datastore: {tokens: 16, batch_size: 8, stride: 8}
search: {k: 8, index: {kind: exact}}
evaluate: {knn: {k: 4, temperature: 1.0, weight: 0.5}, cache: {tokens: 8, flatness: 1.0, weight: 0.1}}
""",
    "realm": """
corpus: {source: {kind: encyclopedia, entities: 60}, max_tokens: 64}
tokenizer: {kind: trained, vocab_size: 900}
salient_spans: {kind: rules}
questions: {small: {source: {kind: encyclopedia}, train_limit: 5}}
encoder: {kind: scratch, layers: 1, hidden_size: 16, heads: 2, max_positions: 160, dropout: 0.1}
retriever: {encoder: {kind: scratch, max_positions: 160}, projection: 16, query_tokens: 32, passage_tokens: 64}
index: {kind: exact}
ict: {training: {steps: 2, batch_size: 2, learning_rate: 1.0e-3}, keep_sentence: 0.1}
pretrain:
  training: {steps: 2, batch_size: 2, learning_rate: 1.0e-3}
  masking: {kind: random_spans, p: 0.2, max_span: 3}
  index_refresh: {every: 1, staleness: 2, agreement_below: 0.5, probes: 4}
  query_tokens: 32
  passage_tokens: 64
finetune: {training: {steps: 2, batch_size: 2, learning_rate: 1.0e-3}, passage_tokens: 64, early_candidates: 8}
evaluate: {recall_at: [1, 5], batch_size: 4}
""",
    "knn_mt": """
domains:
  law:
    train: {source: {kind: phrasebook, domain: law, sentences: 60, words: 60}, longest: 30}
    test: {source: {kind: phrasebook, domain: law, split: test, sentences: 6}}
    elsewhere: general
  general:
    train: {source: {kind: phrasebook, sentences: 60}, fraction: 0.5}
    test: {source: {kind: phrasebook, split: test, sentences: 6}}
    elsewhere: law
training: [general]
tokenizer: {kind: trained_pairs, vocab_size: 300}
model: {kind: scratch, layers: 1, hidden_size: 16, heads: 2, max_positions: 64}
train: {training: {steps: 2, batch_size: 2, learning_rate: 1.0e-3}, label_smoothing: 0.1}
datastore: {of: [own], fraction: 1.0, batch_size: 8}
search: {kind: ivf_pq, lists: 4, sub_quantizers: 4}
decode: {beams: 2, max_tokens: 16, length_penalty: 1.0, knn: {weight: 0.5, k: 4, temperature: 10.0}}
""",
    "retro_qa": """
training_text: {source: {kind: encyclopedia, stream: lives}, part: [0, 0.8]}
evaluation_texts: {small: {source: {kind: encyclopedia, stream: lives}, part: [0.9, 1]}}
tokenizer: {kind: trained_bytes, vocab_size: 300}
chunks: {chunk_tokens: 8, encoder: {encoder: {kind: scratch}, max_tokens: 16}, index: {kind: exact}}
neighbours: {k: 2}
model:
  decoder: {kind: scratch, layers: 2, hidden_size: 16, heads: 2}
  encoder: {layers: 1, hidden_size: 16, heads: 2}
  chunk_tokens: 8
  cca_layers: [2]
train: {training: {steps: 2, batch_size: 2, learning_rate: 1.0e-3}, tokens: 16, k: 2, fit: 0.5}
evaluate: {tokens: 16, stride: 8, k: 2, batch_size: 4}
leakage: {thresholds: [50, 100]}
questions: {small: {source: {kind: encyclopedia}}}
passages: {k: 4, index: {kind: bm25, k1: 0.9, b: 0.4}}
finetune:
  training: {steps: 2, batch_size: 2, learning_rate: 1.0e-3}
  k: 2
  prompt_chunks: 1
  passage_tokens: 16
  answer_tokens: 4
answer: {batch_size: 4}
""",
}
DATASETS = {"knn_lm": "small", "realm": "small", "knn_mt": "law", "retro_qa": "small"}
COLUMNS = {"knn_lm": "perplexity", "realm": "exact_match", "knn_mt": "bleu", "retro_qa": "exact_match"}


def _table(model: str) -> str:
    column = COLUMNS[model]
    return (
        f"title: Tiny\nmodel: {model}\nbase: base.yaml\ndatasets: [{DATASETS[model]}]\nseeds: [0]\ncolumns: [{column}]\n"
        f"baseline: A\nrows: {{A: {{}}, B: {{}}}}\ntrends: [{column}: A > B]\n"
        f"reported: {{source: paper, A: {{{DATASETS[model]}: {{{column}: 1.5}}}}}}\n"
    )


SIZES = st.sampled_from([-1, 0, 1, 2, 3, 7, 2**31, 2**32, 2**63 - 1, 2**63, 10**30, 10**300, -(10**18)])
REALS = st.sampled_from([-1.0, 0.0, 1e-320, 0.5, 1.0, 1.5, 1e300, 1.7e308])
WORDS = st.sampled_from(
    ["", " ", "scratch", "tuned", "files", "..", "/", "**", "a**", "~x", "x" * 300, "A > B", "é", "<<"]
)
SCALARS = st.one_of(st.none(), st.booleans(), SIZES, REALS, WORDS, st.text(max_size=12))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(WORDS, st.text(max_size=6)), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("any")
    (found / "data").mkdir()
    (found / "scale").mkdir()
    return found


def _rlm(*arguments: str) -> tuple[int, str]:
    """Exit code and what is printed, of a command that must neither raise nor take long."""
    out, err = io.StringIO(), io.StringIO()
    started = time.monotonic()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as exit:  # of argparse
            code = int(exit.code or 0)
    assert time.monotonic() - started < 20
    printed = out.getvalue() + err.getvalue()
    assert code in (0, 2), printed
    assert code == 0 or err.getvalue().startswith(("rlm ", "usage: rlm")), printed
    assert "Traceback" not in printed
    return code, printed


def _plan(
    folder: Path, table: bytes, base: bytes | None = None, scale: bytes | None = None, *more: str
) -> tuple[int, str]:
    files = {"table.yaml": table, "base.yaml": base, "scale/tiny.yaml": scale}
    for name, content in files.items():
        path = folder / name
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
    return _rlm("plan", str(folder / "table.yaml"), "--store", str(folder / "runs"), "--force", *more)


def _places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, item in inner for place in _places(item, (*path, name)))] if path else [
        place for name, item in inner for place in _places(item, (name,))
    ]  # fmt: skip


def _changed(text: str, place: tuple[object, ...], value: object) -> bytes:
    whole = yaml.safe_load(text)
    inside = whole
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = value
    return yaml.safe_dump(whole, allow_unicode=False).encode()


BOUNDED = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@pytest.mark.parametrize("model", BASES)
def test_plan__when_nothing_is_changed(folder: Path, model: str) -> None:
    code, printed = _plan(folder, _table(model).encode(), BASES[model].encode())
    assert code == 0, printed
    assert "stages to run" in printed


@pytest.mark.parametrize("model", BASES)
@BOUNDED
@given(data=st.data())
def test_plan__when_a_field_of_the_base_is_anything(folder: Path, model: str, data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(_places(yaml.safe_load(BASES[model]))))
    base = _changed(BASES[model], place, data.draw(VALUES))
    code, printed = _plan(folder, _table(model).encode(), base)
    assert code == 0 or all(line.strip() for line in printed.splitlines())


@pytest.mark.parametrize("model", ["knn_lm", "realm"])
@BOUNDED
@given(data=st.data())
def test_plan__when_a_field_of_the_table_is_anything(folder: Path, model: str, data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(_places(yaml.safe_load(_table(model)))))
    _plan(folder, _changed(_table(model), place, data.draw(VALUES)), BASES[model].encode())


@BOUNDED
@given(
    content=st.one_of(
        st.binary(max_size=80),
        st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.text(alphabet="ab:-?[]{},&*!|>%@`\"'#<~.\\ \n\t0", max_size=60).map(str.encode),
        st.text(max_size=20).map(str.encode).map(lambda raw: b"title: " + raw + b"\n"),
    ),
    where=st.sampled_from(["table", "base", "scale"]),
)
@example(content=b'title: "\a"', where="table")
@example(content=b"\xff\xfet\x00i\x00", where="table")
@example(content=b"title: caf\xe9", where="base")
@example(content=b"[" * 3000, where="base")
@example(content=b"a: &a {<<: *a}", where="scale")
@example(content=b'a: "\\U00110000"', where="scale")
@example(content=b"a: !!int x", where="base")
def test_plan__when_a_file_is_any_bytes(folder: Path, content: bytes, where: str) -> None:
    files = {"table": _table("knn_lm").encode(), "base": BASES["knn_lm"].encode(), "scale": b"seeds: [0]\n"}
    files[where] = content
    _plan(folder, files["table"], files["base"], files["scale"])


ARGUMENTS = st.one_of(
    st.text(max_size=12),
    st.binary(max_size=8).map(os.fsdecode),
    st.sampled_from([
        *("", " ", ",", "..", "/", "~x", "-1", "0", "1", "0,0", "²", "٣", "9" * 5000, "1e400", "nan", "inf", "1_0", "\0", "\n"),
        *("x" * 300, "x=" * 300, "a.b.c" * 90, "a=[" + "[" * 200, "a=\a", "a=\0", "seeds=1", "model.layers=0", "a..b=1"),
        *("model.layers=" + "9" * 400, "search.k=1e400", "evaluate.knn.k=[" + "1," * 20 + "]", "tokenizer={kind: [a]}"),
    ]),
)  # fmt: skip
OPTIONS = ["--scale", "--data", "--rows", "--datasets", "--seeds", "--set", "--store", "--jobs", "--threads", "--device", "--devices", "--workers"]  # fmt: skip


@BOUNDED
@given(option=st.sampled_from(OPTIONS), argument=ARGUMENTS)
@example(option="--seeds", argument="²")
@example(option="--set", argument="model.layers=\udce9")
@example(option="--store", argument="\0")
def test_plan__when_an_option_is_any_text(folder: Path, option: str, argument: str) -> None:
    code, printed = _plan(folder, _table("knn_lm").encode(), BASES["knn_lm"].encode(), None, f"{option}={argument}")
    assert code == 0 or option in printed or option == "--device"


COMMANDS = [
    ["plan", ...],
    ["table", ...],
    ["table", "table.yaml", "--format", ...],
    ["table", "table.yaml", "--out", ...],
    ["ask", ..., "who?"],
    ["ask", "finetune", ...],
    ["ask", "finetune", "who?", "--top", ...],
    ["ask", "finetune", "who?", "--passage", ...],
    ["generate", ..., ""],
    ["generate", "retro_train", ...],
    *(["generate", "retro_train", "", option, ...] for option in ("--seed", "--temperature", "--top-p", "--tokens", "--neighbours")),
    ["ui", "--store", "absent", "--host", ...],
    ["ui", "--store", "absent", "--port", ...],
    ["data", "fetch", "wikipedia", "--out", "out", "--limit=x", ...],
    [...],
]  # fmt: skip


@pytest.mark.parametrize(
    "command", COMMANDS, ids=lambda command: " ".join("X" if part is ... else part for part in command)
)
@settings(BOUNDED, max_examples=10)
@given(argument=ARGUMENTS)
@example(argument="caf\udce9")
@example(argument="9" * 5000)
def test_commands__when_an_argument_is_any_text(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], argument: str
) -> None:
    monkeypatch.chdir(folder)
    _plan(folder, _table("knn_lm").encode(), BASES["knn_lm"].encode())
    argument = argument.replace("/", "_") if "--out" in command else argument  # stay in this folder
    # an argument that begins with a hyphen is an option to argparse
    _rlm(*(("x" + argument if argument.startswith("-") else argument) if part is ... else part for part in command))


NAMES = st.text(alphabet="abcXYZ_9 é中", min_size=1, max_size=5).filter(str.strip)
PLAIN = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**12), 10**12),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), max_size=8),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(NAMES, PLAIN, max_size=4)


@settings(BOUNDED, max_examples=100)
@given(value=MAPPINGS)
def test_parse_yaml__gives_plain_values_back(value: dict[str, object]) -> None:
    parsed = parse_yaml(yaml.safe_dump(value, allow_unicode=True), "t.yaml")
    assert parsed.value == value
    assert all(line.startswith("t.yaml:") for line in parsed.where.values())
    assert set(parsed.where) == {(), *(tuple(map(str, place)) for place in _places(value))}


@settings(BOUNDED, max_examples=100)
@given(under=MAPPINGS, over=MAPPINGS)
def test_merge__keeps_what_is_not_overlaid(under: dict[str, object], over: dict[str, object]) -> None:
    documents = [
        parse_yaml(yaml.safe_dump(value, allow_unicode=True), name) for value, name in ((under, "u"), (over, "o"))
    ]
    merged = merge(*documents)
    assert set(merged.value) == set(under) | set(over)
    assert set(merged.where) == {(), *(tuple(map(str, place)) for place in _places(merged.value))}
    for name in set(under) | set(over):
        if name not in over:
            assert merged.value[name] == under[name]
        elif not (isinstance(under.get(name), dict) and isinstance(over[name], dict)):
            assert merged.value[name] == over[name]
            assert merged.place((name,)).startswith("o:")
    assert merge(merged, documents[1]).value == merged.value, "the same again changes nothing"


@settings(BOUNDED, max_examples=100)
@given(value=MAPPINGS)
def test_nest__of_dotted_names_gives_the_mapping_back(value: dict[str, object]) -> None:
    def dotted(inner: dict[str, object], before: str) -> dict[str, object]:
        flat: dict[str, object] = {}
        for name, item in inner.items():
            flat |= dotted(item, f"{before}{name}.") if isinstance(item, dict) and item else {f"{before}{name}": item}
        return flat

    assert nest(Document(dotted(value, ""), {})).value == value


@settings(BOUNDED, max_examples=100)
@given(value=st.dictionaries(st.text(alphabet="ab.", max_size=5), st.one_of(SCALARS, MAPPINGS), max_size=4))
def test_nest__of_any_names_is_right_or_refused(value: dict[str, object]) -> None:
    try:
        nest(Document(value, {}))
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
