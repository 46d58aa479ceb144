"""Parts that travel one by one: files, compressed, one after the other, cut where a part is full.

A manifest beside the parts names every file's SHA-256 and where its pieces lie, so that parts may arrive in any order
and more than once, a damaged one is told from a whole one, and a file appears when all its pieces are there. (Imports
nothing but the standard library and pyarrow: before its first part is unpacked, the other machine may have no more.)
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 2**20
PART = 60 * MIB
"""Bytes of a part; with the checkout it is one transfer."""
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Packed:
    """A file on its way."""

    path: str
    """Where it will lie, relative to the folder it is unpacked into."""
    source: Path
    what: str
    """What it is for, in a few words."""
    way: str = "zstd"
    """To compress it; what ends in .gz, .whl or .zip is left as it is."""


def digest(data: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def compress(data: bytes, way: str) -> tuple[str, bytes]:
    """How, and the compressed bytes; as they are where that does not help.

    Args:
        data: the bytes.
        way: `none`, `zstd`, or `halves`: of bfloat16 numbers, whose first bytes compress well when they stand together.
    """
    if way == "none":
        return way, data
    import pyarrow

    turned = data[::2] + data[1::2] if way == "halves" else data
    level = 9 if way == "halves" else 19
    packed: bytes = pyarrow.Codec("zstd", compression_level=level).compress(turned, asbytes=True)
    return (way, packed) if len(packed) < len(data) else ("none", data)


def decompress(way: str, data: bytes, size: int) -> bytes:
    """The inverse of `compress`."""
    if way == "none":
        return data
    import pyarrow

    plain: bytes = pyarrow.Codec("zstd").decompress(data, decompressed_size=size, asbytes=True)
    if way == "zstd":
        return plain
    whole = bytearray(size)
    whole[::2], whole[1::2] = plain[: (size + 1) // 2], plain[(size + 1) // 2 :]
    return bytes(whole)


def write_parts(files: Iterable[Packed], out: Path, limit: int = PART, **notes: Any) -> dict[str, Any]:
    """Write `part-0.bin`, ... and the manifest; compressed files are kept in `out/compressed` for the next time.

    Args:
        files: in the order in which they are needed.
        out: the folder.
        limit: bytes of a part.
        notes: put into the manifest, too.

    Returns:
        the manifest: `parts` (name, bytes, sha256) and `files` (path, what, bytes, sha256, way, and pieces: number of
        the part, first byte in it, bytes).
    """
    for old in out.glob("part-*.bin"):
        old.unlink()
    described: list[dict[str, Any]] = []
    parts: list[bytearray] = [bytearray()]
    for file in files:
        data = file.source.read_bytes()
        known = digest(data)
        way, packed = _compressed(data, known, out / "compressed", file)
        pieces, start = [], 0
        while start < len(packed) or not pieces:
            if len(parts[-1]) == limit:
                parts.append(bytearray())
            some = packed[start : start + limit - len(parts[-1])]
            pieces.append([len(parts) - 1, len(parts[-1]), len(some)])
            parts[-1] += some
            start += len(some)
        described.append(
            {"path": file.path, "what": file.what, "bytes": len(data), "sha256": known, "way": way, "pieces": pieces}
        )
    names = [f"part-{number}.bin" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        (out / name).write_bytes(part)
    manifest = {
        **notes,
        "parts": [
            {"name": name, "bytes": len(part), "sha256": digest(part)} for name, part in zip(names, parts, strict=True)
        ],
        "files": described,
    }
    write_whole(out / MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def _compressed(data: bytes, known: str, folder: Path, file: Packed) -> tuple[str, bytes]:
    found = next(folder.glob(f"{known}.*"), None)
    if found is not None:
        return found.suffix[1:], found.read_bytes()
    way, packed = compress(data, "none" if file.source.suffix in (".gz", ".whl", ".zip") else file.way)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{known}.{way}", packed)
    return way, packed


def write_whole(path: Path, data: bytes) -> None:
    """By one rename, so that nobody sees half a file."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)


def unpack(parts: Path, work: Path) -> tuple[set[str], list[str]]:
    """Take in the parts that a folder holds, and write the files that are complete with them.

    Args:
        parts: holds the manifest and any of its parts.
        work: files go below it; parts of files that are not complete yet are kept in it.

    Returns:
        the paths of the files that are there, and what was wrong or is missing, a line each.
    """
    manifest = json.loads((parts / MANIFEST).read_text())
    kept, notes = work / "parts", []
    kept.mkdir(parents=True, exist_ok=True)
    unpacked = work / "unpacked.json"
    there: dict[str, str] = json.loads(unpacked.read_text()) if unpacked.is_file() else {}
    files = [file for file in manifest["files"] if there.get(file["path"]) != file["sha256"]]
    needed = {number for file in files for number, _, _ in file["pieces"]}
    for number, part in enumerate(manifest["parts"]):
        source, target = parts / part["name"], kept / part["sha256"]
        if number not in needed or target.is_file():
            continue
        if not source.is_file():
            notes.append(f"{part['name']} has not arrived yet")
        elif digest(data := source.read_bytes()) != part["sha256"]:
            notes.append(f"{part['name']}: damaged ({len(data):,} of {part['bytes']:,} bytes); bring it again")
        else:
            write_whole(target, data)
    arrived = [kept / part["sha256"] for part in manifest["parts"]]
    for file in files:
        if not all(arrived[number].is_file() for number, _, _ in file["pieces"]):
            continue
        packed = b"".join(_piece(arrived[number], start, size) for number, start, size in file["pieces"])
        data = decompress(file["way"], packed, file["bytes"])
        if digest(data) != file["sha256"]:
            notes.append(f"{file['path']}: its bytes are not those that were packed; pack it again")
            continue
        (work / file["path"]).parent.mkdir(parents=True, exist_ok=True)
        write_whole(work / file["path"], data)
        there[file["path"]] = file["sha256"]
        write_whole(unpacked, json.dumps(there).encode())
    if all(there.get(file["path"]) == file["sha256"] for file in manifest["files"]):
        shutil.rmtree(kept)
    return {file["path"] for file in manifest["files"] if there.get(file["path"]) == file["sha256"]}, notes


def _piece(part: Path, start: int, size: int) -> bytes:
    with part.open("rb") as file:
        file.seek(start)
        return file.read(size)
