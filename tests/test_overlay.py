import pytest

from rlm.errors import ConfigError
from rlm.overlay import merge, nest, parse_settings
from rlm.yaml_file import Document, parse_yaml


def _document(text: str, name: str = "a.yaml") -> Document:
    return parse_yaml(text, name)


def test_merge__when_mappings_are_nested() -> None:
    merged = merge(
        _document("x: {a: 1, b: 2}\ny: 1\n"),
        _document("\nx: {b: 3}\n", "b.yaml"),
    )
    assert merged.value == {"x": {"a": 1, "b": 3}, "y": 1}
    assert merged.place(("x", "a")) == "a.yaml:1"
    assert merged.place(("x", "b")) == "b.yaml:2"


def test_merge__when_the_kind_changes() -> None:
    under = _document("m: {kind: random_spans, p: 0.3}\n")
    merged = merge(under, _document("m: {kind: uniform_tokens}\n", "b.yaml"))
    assert merged.value == {"m": {"kind": "uniform_tokens"}}
    assert ("m", "p") not in merged.where
    assert merge(under, _document("m: {kind: random_spans, rate: 0.2}\n")).value == {
        "m": {"kind": "random_spans", "p": 0.3, "rate": 0.2}
    }


def test_merge__when_a_list_is_overlaid() -> None:
    assert merge(_document("x: [1, 2, 3]\n"), _document("x: [4]\n")).value == {"x": [4]}


def test_nest__when_names_are_dotted() -> None:
    nested = nest(_document("a.b: 1\na.c.d: 2\na:\n  e: 3\n"))
    assert nested.value == {"a": {"b": 1, "c": {"d": 2}, "e": 3}}
    assert nested.place(("a", "c", "d")) == "a.yaml:2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.b: 1\na: {b: 2}\n", "a.yaml:2: `a.b` is given twice"),
        ("a: 1\na.b: 2\n", "a.yaml:2: `a.b` is inside a value given as a whole"),
        ("a..b: 1\n", "`a..b` has an empty part"),
    ],
)
def test_nest__when_a_name_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        nest(_document(text))
    assert message in str(raised.value)


def test_parse_settings__when_values_are_yaml() -> None:
    settings = parse_settings(["a.b=3e-5", "a.c=[1, 2]", "d={kind: x}", "e=a=b"])
    assert settings.value == {"a": {"b": 3e-5, "c": [1, 2]}, "d": {"kind": "x"}, "e": "a=b"}
    assert settings.place(("a", "b")) == "--set a.b=3e-5"


@pytest.mark.parametrize("setting", ["candidates", "=4"])
def test_parse_settings__when_the_form_is_wrong(setting: str) -> None:
    with pytest.raises(ConfigError, match="write --set NAME=VALUE"):
        parse_settings([setting])


def test_parse_settings__when_a_name_is_given_twice() -> None:
    with pytest.raises(ConfigError, match="--set a.b is given twice"):
        parse_settings(["a.b=1", "a.b=2"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.layers=\a", "--set model.layers:1: not YAML: the character U+0007; remove it"),
        ("model.layers=1e400", "--set model.layers:1: found 1e400; write a finite number"),
        ("a=" + "[" * 3000, "--set a:1: not YAML: nested more than 50 deep"),
        ("a." * 60 + "a=1", "has more than 50 names"),
        ("a\nb=1", "--set a\\nb: it holds the character U+000A"),
    ],
)
def test_parse_settings__when_a_value_is_hostile(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_settings([setting])
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
