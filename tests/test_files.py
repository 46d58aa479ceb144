import ast
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


def test_text_files__have_an_encoding(root: Path) -> None:
    """What the locale says is another thing in a container, and results hold names of all languages."""

    def unsaid(call: ast.Call) -> bool:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        modes = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        opened = name == "open" and isinstance(call.func, ast.Name) and not any("b" in mode for mode in modes[-1:])
        written = name == "open" and isinstance(call.func, ast.Attribute) and modes[:1] in (["w"], ["a"], ["r"], ["x"])
        return (opened or written or name in ("read_text", "write_text")) and "encoding" not in {
            keyword.arg for keyword in call.keywords
        }

    found = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in (root / "rlm").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and unsaid(node)
    ]
    assert found == []
