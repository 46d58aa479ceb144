from pathlib import Path

import pytest

from rlm.errors import ConfigError
from rlm.yaml_file import parse_yaml, read_yaml


def test_parse_yaml__when_numbers_are_written_as_yaml_1_2_does() -> None:
    parsed = parse_yaml("a: 3e-5\nb: 1.0e-4\nc: 12\nd: on\ne: 2018-12-20\nf: true\ng: ~\nh: 1_000\ni: '3'\n", "t.yaml")
    expected = {"a": 3e-5, "b": 1e-4, "c": 12, "d": "on", "e": "2018-12-20", "f": True, "g": None, "h": 1000, "i": "3"}
    assert parsed.value == expected
    assert [type(value) for value in parsed.value.values()] == [type(value) for value in expected.values()]


def test_parse_yaml__when_places_are_asked() -> None:
    parsed = parse_yaml("rows:\n  REALM: {}\n  other:\n    x: [1,\n      2]\n", "t.yaml")
    assert parsed.place(("rows", "other", "x")) == "t.yaml:4"
    assert parsed.place(("rows", "other", "x", "1")) == "t.yaml:5"
    assert parsed.place(("rows", "other", "absent")) == "t.yaml:3"


def test_parse_yaml__when_a_row_is_named_twice() -> None:
    with pytest.raises(ConfigError, match=r"t.yaml:4: `REALM` was already given in line 2"):
        parse_yaml("rows:\n  REALM: {}\n  ORQA: {}\n  REALM: {x: 1}\n", "t.yaml")


def test_parse_yaml__when_the_syntax_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"t.yaml:2: not YAML: "):
        parse_yaml("title: x\nrows: {a: [1, 2}\n", "t.yaml")


def test_parse_yaml__when_a_mapping_merges_another() -> None:
    parsed = parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n", "t.yaml")
    assert parsed.value["b"] == {"x": 1, "y": 3}


def test_parse_yaml__when_an_alias_holds_itself() -> None:
    with pytest.raises(ConfigError, match="an alias holds itself"):
        parse_yaml("a: &a [*a]\n", "t.yaml")


def test_parse_yaml__when_a_tag_would_run_code() -> None:
    with pytest.raises(ConfigError, match=r"t.yaml:1: the tag `!!python/object/apply:os.system`"):
        parse_yaml("a: !!python/object/apply:os.system [ls]\nb: !!python/name:os.system x\n", "t.yaml")


def test_read_yaml__when_the_file_is_absent_or_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent.yaml: no such file"):
        read_yaml(tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="the top level is a list"):
        read_yaml(tmp_path / "list.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml").value == {}
