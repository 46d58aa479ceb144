import os
import time
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


# A text, and the message of its mistake.
HOSTILE = {
    "nested lists": ("a: 1\nb: " + "[" * 3000, "t.yaml:2: not YAML: nested more than 50 deep"),
    "nested mappings": ("a: {" * 200, "t.yaml:1: not YAML: nested more than 50 deep"),
    "aliases that grow": (
        "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)),
        "more than 10,000 values, aliases counted as often as they are used",
    ),
    "merges that grow": (
        "a0: &a0 {x: 1}\n"
        + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}], k{i}: 1}}\n" for i in range(1, 10)),
        "more than 10,000 values",
    ),
    "aliases that nest": (
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 100)),
        "nested more than 50 deep",
    ),
    "a merge of itself": ("a: &a {<<: *a}", "t.yaml:1: an alias holds itself"),
    "a merge of a number": ("a: 1\nb: {<<: 3}", "t.yaml:2: `<<` takes a mapping, or a list of some"),
    "a control character": ("a: 1\nb: \a", "t.yaml:2: not YAML: the character U+0007; remove it"),
    "a NUL": ("\0", "t.yaml:1: not YAML: the character U+0000; remove it"),
    "half a character": ('a: {b: "\\ud800"}', "t.yaml:1: a.b: found half a character, U+D800"),
    "no character": ('a: "\\U00110000"', "t.yaml:1: not YAML: a number that means nothing"),
    "a number beyond floats": ("a:\n  b: 1e400", "t.yaml:2: a.b: found 1e400; write a finite number"),
    "a number of many digits": ("a: " + "7" * 5000, "t.yaml:1: a: found 777"),
    "a version of many digits": (f"%YAML {'9' * 5000}.1\n--- a", "t.yaml:1: not YAML: a number that means nothing"),
    "a tag of another type": ("a: !!int x", "t.yaml:1: the tag `!!int` means nothing here"),
    "a tag of a time": ("a: !!timestamp x", "t.yaml:1: the tag `!!timestamp` means nothing here"),
    "a tag of bytes": ('a: !!binary "?"', "t.yaml:1: the tag `!!binary` means nothing here"),
    "a tag of a set": ("!!set {a}", "t.yaml:1: the tag `!!set` means nothing here"),
    "two documents": ("a: 1\n---\nb: 2", "t.yaml:2: not YAML: "),
    "a name of two lines": ('rows:\n  "L\\nM": {}', "t.yaml:2: rows: the name `L\\nM` holds the character U+000A"),
    "a name that turns text": ('rows: {"a\\u202eb": {}}', "t.yaml:1: rows: the name `a\\u202eb` holds the character U+202E"),
    "an empty name": ("rows: {'': {}}", "t.yaml:1: rows: an empty name"),
    "a list as a name": ("? [a]\n: b", "t.yaml:1: a name must be plain text"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_parse_yaml__when_the_text_is_hostile(name: str) -> None:
    text, message = HOSTILE[name]
    started = time.monotonic()
    with pytest.raises(ConfigError) as raised:
        parse_yaml(text, "t.yaml")
    assert time.monotonic() - started < 10
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_parse_yaml__when_tags_say_what_is_so_anyway() -> None:
    assert parse_yaml("{a: !!int 5, b: !!str 5, c: !!float 1.5}", "t").value == {"a": 5, "b": "5", "c": 1.5}


def test_parse_yaml__when_merges_lie_over_one_another() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {<<: [*a, *b], y: 3}\nd: {<<: *a, <<: *b}\n"
    parsed = parse_yaml(text, "t.yaml")
    assert parsed.value["c"] == {"x": 1, "z": 2, "y": 3}, "the earlier of a list wins, what is written out most"
    assert parsed.place(("c", "x")) == "t.yaml:1"
    assert parsed.place(("c", "y")) == "t.yaml:3"


def test_read_yaml__when_it_is_no_utf_8(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin.yaml:2: byte 0xe9 is not UTF-8; save the file as UTF-8"):
        read_yaml(tmp_path / "latin.yaml")
    (tmp_path / "windows.yaml").write_bytes("a: 1\n".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"windows.yaml:1: byte 0xff is not UTF-8"):
        read_yaml(tmp_path / "windows.yaml")
    (tmp_path / "mark.yaml").write_bytes("a: 1\n".encode("utf-8-sig"))
    assert read_yaml(tmp_path / "mark.yaml").value == {"a": 1}


def test_read_yaml__when_it_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match=r"pipe.yaml: is no regular file; name a YAML file"):
        read_yaml(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match=r"is a folder; name a YAML file"):
        read_yaml(tmp_path)
    with pytest.raises(ConfigError, match=r"/dev/zero: is no regular file"):
        read_yaml(Path("/dev/zero"))
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(ConfigError, match=r"large.yaml: has 1,000,000,000,000 bytes, a table at most 1,048,576"):
        read_yaml(tmp_path / "large.yaml")
