"""Parts on their way: their limit, arrival one by one, damage."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.parts import MANIFEST, Packed, compress, decompress, unpack, write_parts


def noise(size: int, seed: int = 0) -> bytes:
    import random

    return random.Random(seed).randbytes(size)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Three files in parts of 1,000 bytes, the second of which is cut twice."""
    source = tmp_path / "source"
    source.mkdir()
    contents = {"first": noise(400), "second": noise(1900, 1), "text": b"a passage, " * 500, "empty": b""}
    for name, data in contents.items():
        (source / name).write_bytes(data)
    out = tmp_path / "out"
    out.mkdir()
    write_parts([Packed(f"data/{name}", source / name, name) for name in contents], out, limit=1000)
    return out


def arrived(packed: Path, tmp_path: Path, *names: str) -> Path:
    """A folder to which only these parts have come, with the manifest."""
    folder = tmp_path / "arrived"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name in (MANIFEST, *names):
        (folder / name).write_bytes((packed / name).read_bytes())
    return folder


def test_parts__are_no_larger_than_the_limit(packed: Path) -> None:
    parts = json.loads((packed / MANIFEST).read_text())["parts"]
    sizes = [(packed / part["name"]).stat().st_size for part in parts]
    assert sizes == [part["bytes"] for part in parts]
    assert len(sizes) == 3 and max(sizes) == 1000 and sum(sizes) < 2500


def test_parts__are_the_same_when_packed_again(packed: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in packed.glob("part-*")}
    source = tmp_path / "source"
    files = [Packed(f"data/{name}", source / name, name) for name in ("first", "second", "text", "empty")]
    write_parts(files, packed, limit=1000)
    assert {path.name: path.read_bytes() for path in packed.glob("part-*")} == before


def test_unpack__writes_a_file_when_its_last_part_comes_in_any_order(packed: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    there, notes = unpack(arrived(packed, tmp_path, "part-2.bin"), work)
    assert "data/second" not in there and len(notes) == 2
    there, notes = unpack(arrived(packed, tmp_path, "part-0.bin"), work)
    assert there == {"data/first", "data/text", "data/empty"} and notes == ["part-1.bin has not arrived yet"]
    there, notes = unpack(arrived(packed, tmp_path, "part-1.bin"), work)
    assert there == {"data/first", "data/second", "data/text", "data/empty"} and not notes
    for path in (tmp_path / "source").iterdir():
        assert (work / "data" / path.name).read_bytes() == path.read_bytes()
    assert not (work / "parts").exists()
    assert unpack(arrived(packed, tmp_path), work) == (there, [])


def test_unpack__names_a_damaged_part_and_takes_the_others(packed: Path, tmp_path: Path) -> None:
    folder, work = arrived(packed, tmp_path, "part-0.bin", "part-1.bin", "part-2.bin"), tmp_path / "work"
    (folder / "part-1.bin").write_bytes(noise(1000, 7))
    there, notes = unpack(folder, work)
    assert there == {"data/first", "data/text", "data/empty"}
    assert notes == ["part-1.bin: damaged (1,000 of 1,000 bytes); bring it again"]
    there, notes = unpack(arrived(packed, tmp_path, "part-1.bin"), work)
    assert len(there) == 4 and not notes


def test_unpack__takes_other_contents_of_a_file_that_is_there(packed: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    unpack(packed, work)
    (tmp_path / "source" / "first").write_bytes(noise(300, 9))
    write_parts([Packed("data/first", tmp_path / "source" / "first", "first")], packed, limit=1000)
    assert unpack(packed, work) == ({"data/first"}, [])
    assert (work / "data" / "first").read_bytes() == noise(300, 9)


@pytest.mark.parametrize("data", [b"", b"x", b"ab" * 999, b"abc" * 333, noise(1001)])
@pytest.mark.parametrize("way", ["none", "zstd", "halves"])
def test_compressed_bytes__come_back(data: bytes, way: str) -> None:
    way, small = compress(data, way)
    assert decompress(way, small, len(data)) == data
    assert len(small) <= len(data)


def test_bfloat16__compresses_better_by_halves() -> None:
    numbers = np.random.default_rng(0).standard_normal(50_000, np.float32).view(np.uint16)[1::2].tobytes()
    assert len(compress(numbers, "halves")[1]) < len(compress(numbers, "zstd")[1]) - 3000
