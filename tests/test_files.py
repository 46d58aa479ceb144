from pathlib import Path

import pytest

from rlm.errors import StageError
from rlm.files import write_whole


def test_write_whole__replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.md"
    write_whole(path, "é \udce9")
    write_whole(path, "| ± |")
    assert path.read_bytes() == "| ± |\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_write_whole__when_the_disk_is_full_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.md"
    path.write_text("before")

    def full(self: Path, text: str, **options: str) -> int:
        self.write_bytes(text[:3].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StageError, match=r"table.md: cannot be written \(No space left on device\)"):
        write_whole(path, "another")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["folder", "file/table.md", "x" * 300])
def test_write_whole__when_it_cannot_be_written_nothing_is_left(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(StageError, match="cannot be written"):
        write_whole(tmp_path / name, "text")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_write_whole__when_it_is_a_device_it_stays_one() -> None:
    write_whole(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()
