"""Text files: what is read, and what is named as what it is."""

import bz2
import gzip
import lzma
import os
import socket
from pathlib import Path

import pytest

from rlm.data.text_files import create_text, fault_of, open_text, read_lines
from rlm.errors import ConfigError

TEXT = '{"id": "ä"}\n{"id": "b"}\r\n'


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("compressed", [False, True])
def test_read_lines__goes_by_the_first_bytes(tmp_path: Path, name: str, mark: str, compressed: bool):
    content = (mark + TEXT).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if compressed else content)
    if name.endswith(".gz") and not compressed:
        with pytest.raises(ConfigError, match=r"a\.jsonl\.gz: .*not compressed with gzip.*rename it to a\.jsonl "):
            list(read_lines(tmp_path / name))
    else:
        assert list(read_lines(tmp_path / name)) == ['{"id": "ä"}\n', '{"id": "b"}\r\n']


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_read_lines__of_an_empty_file_are_none(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"")
    assert list(read_lines(tmp_path / name)) == []
    with create_text(tmp_path / name):
        pass
    assert list(read_lines(tmp_path / name)) == []


def test_read_lines__reads_a_pipe_that_was_given(tmp_path: Path):
    read, write = os.pipe()
    with open(write, "wb") as file:
        file.write(gzip.compress(TEXT.encode()))
    assert len(list(read_lines(Path(f"/dev/fd/{read}")))) == 2
    os.close(read)


def _zip(content: bytes) -> bytes:
    import io
    import zipfile

    with zipfile.ZipFile(held := io.BytesIO(), "w") as file:
        file.writestr("a.jsonl", content)
    return held.getvalue()


def _tar(content: bytes) -> bytes:
    import io
    import tarfile

    with tarfile.open(fileobj=(held := io.BytesIO()), mode="w") as file:
        file.addfile(tarfile.TarInfo("a.jsonl"), io.BytesIO(content))
    return held.getvalue()


def _parquet(content: bytes) -> bytes:
    import io

    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"id": ["a"]}), held := io.BytesIO())
    return held.getvalue()


FORMS = {
    "zip": _zip,
    "tar": _tar,
    "zstd": lambda content: b"\x28\xb5\x2f\xfd" + content,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "Parquet": _parquet,
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "UTF-16 ": lambda content: content.decode().encode("utf-16-le"),
    " UTF-16": lambda content: content.decode().encode("utf-16-be"),
    "UTF-32": lambda content: content.decode().encode("utf-32"),
    "gzip twice": lambda content: gzip.compress(gzip.compress(content)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packed", [False, True])
def test_read_lines__names_another_form(tmp_path: Path, form: str, packed: bool):
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    content = FORMS[form](TEXT.encode())
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ConfigError) as caught:
        list(read_lines(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be read (it is ") and form.strip() in message and "\n" not in message


@pytest.mark.parametrize("newline", ["", "\n"])
@pytest.mark.parametrize("compressed", [False, True])
def test_open_text__names_the_line_that_is_not_utf8(tmp_path: Path, newline: str, compressed: bool):
    content = b"a\rb\n" * 9000 + b"c\xff\n" + b"d\n" * 9000
    (tmp_path / "a.txt").write_bytes(gzip.compress(content) if compressed else content)
    line = 18001 if newline == "" else 9001
    with (
        pytest.raises(ConfigError, match=rf"a\.txt:{line}: not UTF-8 .*convert"),
        open_text(tmp_path / "a.txt", newline) as file,
    ):
        file.read()


@pytest.mark.parametrize("damage", ["cut", "middle", "head", "end"])
def test_read_lines__names_a_damaged_file(tmp_path: Path, damage: str):
    packed = bytearray(gzip.compress(os.urandom(4000).hex().encode(), mtime=0))
    half = len(packed) // 2
    if damage == "cut":
        del packed[half:]
    elif damage == "middle":
        packed[half : half + 20] = b"\xff" * 20
    else:
        packed[slice(2, 4) if damage == "head" else slice(-8, None)] = b"\xff" * (2 if damage == "head" else 8)
    (tmp_path / "a.gz").write_bytes(packed)
    with pytest.raises(ConfigError, match=r"a\.gz: cannot be read \(.+\); copy or download it again"):
        list(read_lines(tmp_path / "a.gz"))


def test_read_lines__names_a_file_that_is_not_there_or_is_a_folder(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"b: cannot be read \(No such file or directory\); write the path"):
        list(read_lines(tmp_path / "b"))
    with pytest.raises(ConfigError, match="cannot be read .Is a directory."):
        list(read_lines(tmp_path))


def test_fault_of__names_what_is_neither_file_nor_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "file"
    file.write_text("x")
    (tmp_path / "good").symlink_to(file)
    (tmp_path / "gone").symlink_to("nowhere/at/all")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # the path of a socket may not be long
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        assert "socket: a socket, not a file" in str(fault_of(tmp_path / "socket"))
    assert fault_of(file) is None and fault_of(tmp_path / "good") is None and fault_of(tmp_path) is None
    assert "gone: a link to nowhere/at/all, which is not there" in str(fault_of(tmp_path / "gone"))
    assert "loop: a link to loop, which leads back to it" in str(fault_of(tmp_path / "loop"))
    assert "pipe: a pipe, not a file" in str(fault_of(tmp_path / "pipe"))
    assert "/dev/null: a device, not a file" in str(fault_of(Path("/dev/null")))
    assert "file/x: cannot be reached (Not a directory)" in str(fault_of(file / "x"))


def test_create_text__is_read_back(tmp_path: Path):
    for name in ("a.txt", "a.txt.gz"):
        with create_text(tmp_path / name) as file:
            file.write(TEXT)
        assert "".join(read_lines(tmp_path / name)) == TEXT
    assert (tmp_path / "a.txt.gz").read_bytes()[:2] == b"\x1f\x8b"
