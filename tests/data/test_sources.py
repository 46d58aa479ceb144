"""Passages of files."""

import gzip
import json
import os
from pathlib import Path

import pytest

from rlm.data.config import EncyclopediaSource, FilesSource
from rlm.data.sources import Passage, read_passages
from rlm.errors import ConfigError


def _lines(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def _row(i: int, **changed: object) -> dict:
    return {"id": str(i), "title": f"T{i}", "text": f"Text {i}."} | changed


def _read(data: Path | None, *files: str, limit: int | None = None) -> list[Passage]:
    return list(read_passages(FilesSource(files=files, limit=limit), data))


def test_read_passages__reads_a_globs_files_by_name(tmp_path: Path):
    _lines(tmp_path / "wiki" / "b.jsonl.gz", _row(3))
    _lines(tmp_path / "wiki" / "a.jsonl", _row(1, id=1, url="x"), _row(2, title=""))
    expected = [Passage("1", "T1", "Text 1."), Passage("2", "", "Text 2."), Passage("3", "T3", "Text 3.")]
    assert _read(tmp_path, "wiki/*.jsonl*") == expected
    assert _read(tmp_path, "wiki/b.jsonl.gz", "wiki/*.jsonl*") == [expected[2], *expected[:2]]


def test_read_passages__reads_dprs_table_and_parquet(tmp_path: Path):
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "psgs.tsv").write_text('id\ttext\ttitle\n1\t"Says ""so""."\tAaron\n')
    parquet.write_table(pa.Table.from_pylist([_row(2)]), tmp_path / "b.parquet")
    assert _read(tmp_path, "psgs.tsv", "b.parquet") == [Passage("1", "Aaron", 'Says "so".'), Passage(*_row(2).values())]


def test_read_passages__stops_at_the_limit(tmp_path: Path):
    _lines(tmp_path / "a.jsonl", _row(1), _row(2), {"never": "read"})
    assert [passage.id for passage in _read(tmp_path, "a.jsonl", limit=2)] == ["1", "2"]
    assert [passage.id for passage in _read(tmp_path, "a.jsonl", limit=1)] == ["1"]


def test_read_passages__asks_for_the_data_folder():
    with pytest.raises(ConfigError, match=r"a\.jsonl: give the folder they are in by --data FOLDER"):
        _read(None, "a.jsonl")


def test_read_passages__refuses_a_data_folder_that_is_none(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such folder"):
        _read(tmp_path / "nowhere", "a.jsonl")


def test_read_passages__names_the_nearest_files_when_a_pattern_matches_nothing(tmp_path: Path):
    _lines(tmp_path / "wiki" / "passages-00.jsonl", _row(1))
    with pytest.raises(ConfigError, match=r"pasages\*\.jsonl: no such file; files of the folder: wiki/passages-00"):
        _read(tmp_path, "wiki/pasages*.jsonl")


def test_read_passages__refuses_absolute_paths(tmp_path: Path):
    path = _lines(tmp_path / "a.jsonl", _row(1))
    with pytest.raises(ConfigError, match="relative to the data folder"):
        _read(tmp_path, str(path))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "2", "text": "x"}, "no `title`; the record has: id, text"),
        ({"contents": "x"}, "no `id`, `title`, `text`; the record has: contents"),
        (_row(2, text=" \n"), "`text` is empty"),
        (_row(2, text=["a"]), "`text` is ['a']; write text"),
    ],
)
def test_read_passages__names_file_line_and_field(tmp_path: Path, row: dict, message: str):
    path = _lines(tmp_path / "a.jsonl", _row(1), row)
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, "a.jsonl")
    assert str(caught.value).startswith(f"{path}:2: {message}")


def test_read_passages__names_the_line_that_is_not_json(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(json.dumps(_row(1)) + "\n{broken\n")
    with pytest.raises(ConfigError, match=r"a\.jsonl:2: not JSON"):
        _read(tmp_path, "a.jsonl")


def test_read_passages__names_both_places_of_an_id(tmp_path: Path):
    first = _lines(tmp_path / "a.jsonl", _row(1), _row(2))
    second = _lines(tmp_path / "b.jsonl", _row(3), _row(2, text="other"))
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, "a.jsonl", "b.jsonl")
    assert f"{second}:2: `id` '2' is also that of {first}:2" in str(caught.value)


def test_read_passages__refuses_an_empty_data_set(tmp_path: Path):
    _lines(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match=r"a\.jsonl: holds no passage"):
        _read(tmp_path, "a.jsonl")


def test_read_passages__generates_the_encyclopedia():
    passages = read_passages(EncyclopediaSource(entities=40), None)
    assert isinstance(next(passages), Passage)


@pytest.mark.parametrize("value", [True, 1.5, {"a": 1}, ["b"], "", " "])
def test_read_passages__refuses_ids_that_are_no_text(tmp_path: Path, value: object):
    _lines(tmp_path / "a.jsonl", _row(1, id=1), _row(2, id=value))
    with pytest.raises(ConfigError, match=r"a\.jsonl:2: `id` is .*; write text or a whole number"):
        _read(tmp_path, "a.jsonl")


@pytest.mark.parametrize("field", ["id", "title", "text"])
def test_read_passages__refuses_half_a_character(tmp_path: Path, field: str):
    _lines(tmp_path / "a.jsonl", _row(1), _row(2, **{field: "x\udc80"}), _row(3, url="\udc80"))
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, "a.jsonl")
    (message,) = str(caught.value).split("\n")
    assert message.startswith(f"{tmp_path}/a.jsonl:2: `{field}` holds half of a character (\\udc80")


def test_read_passages__names_what_a_pattern_meets_and_cannot_read(tmp_path: Path):
    _lines(tmp_path / "wiki" / "a.jsonl", _row(1))
    (tmp_path / "wiki" / "folder").mkdir()
    assert len(_read(tmp_path, "wiki/*")) == 1
    (tmp_path / "wiki" / "b.jsonl").symlink_to("gone.jsonl")
    for pattern in ("wiki/*", "wiki/b.jsonl", "**/*.jsonl"):
        with pytest.raises(ConfigError, match=r"wiki/b\.jsonl: a link to gone\.jsonl, which is not there"):
            _read(tmp_path, pattern)
    assert len(_read(tmp_path, "wiki/a*")) == 1
    (tmp_path / "wiki" / "b.jsonl").unlink()
    os.mkfifo(tmp_path / "wiki" / "b.jsonl")
    with pytest.raises(ConfigError, match=r"wiki/b\.jsonl: a pipe, not a file"):
        _read(tmp_path, "wiki/*.jsonl")


@pytest.mark.parametrize("pattern", ["wiki/*.jsonl", "*/a.jsonl*", "**/*.jsonl", "wik[i]/*"])
def test_read_passages__names_a_folder_that_may_not_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
):
    _lines(tmp_path / "wiki" / "a.jsonl", _row(1))
    _lines(tmp_path / "other" / "a.jsonl", _row(2))
    listdir = os.listdir

    def refuse(folder):
        if Path(folder).name == "wiki":
            raise PermissionError(13, "Permission denied", str(folder))
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", refuse)  # root may list any folder
    with pytest.raises(ConfigError, match=r"wiki: its files cannot be listed \(Permission denied\); give yourself"):
        _read(tmp_path, pattern)


@pytest.mark.parametrize("pattern", ["", ".", "**x/*", "a\0b", "./"])
def test_read_passages__names_a_pattern_that_is_none(tmp_path: Path, pattern: str):
    _lines(tmp_path / "a.jsonl", _row(1))
    with pytest.raises(ConfigError, match="files: .* names no file .*write one such as|no such file"):
        _read(tmp_path, pattern)
