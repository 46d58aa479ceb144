"""Snapshots of a retriever, and the passage index of each, built here or in another process.

A snapshot folder holds `retriever/` from the start, and `index/` and `embeddings.npy` once its index is whole: the
folder `index/` appears by one rename, so that whoever sees it may read it. Also a program:
`python -m rlm.retrieval.refresh SNAPSHOT CORPUS_FOLDER`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rlm.config import to_plain
from rlm.data.tokens import Ragged, SpecialTokens
from rlm.errors import StageError
from rlm.retrieval.config import ExactIndex, IndexConfig
from rlm.retrieval.encoder import DualEncoder, Progress, embed_corpus
from rlm.retrieval.index import KINDS, Index, build_index, open_index


def write_snapshot(encoder: DualEncoder, folder: Path, step: int) -> Path:
    """Write the retriever's weights to `folder/<step>/retriever`; the folder of the step appears by one rename.

    Returns:
        `folder/<step>`, which is left as it is where it exists.
    """
    snapshot, part = folder / str(step), folder / f"{step}.tmp"
    if not snapshot.is_dir():
        shutil.rmtree(part, ignore_errors=True)
        encoder.save(part / "retriever")
        os.replace(part, snapshot)
    return snapshot


def read_special(corpus_folder: Path) -> tuple[SpecialTokens, int]:
    """Special tokens and vocabulary size of a corpus folder."""
    path = corpus_folder / "corpus.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        return SpecialTokens(**described["special"]), int(described["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no corpus, or a damaged one ({error!r}); build the corpus again") from error


def build_snapshot_index(
    snapshot: Path,
    corpus_folder: Path,
    index_config: IndexConfig,
    out: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Path:
    """Embed the corpus with a snapshot's retriever and index the embeddings.

    Args:
        snapshot: folder with `retriever/`.
        corpus_folder: folder of the corpus stage.
        index_config: kind of index.
        out: where `index/` and `embeddings.npy` (float32 [passages, dim]) go; None is the snapshot folder.
        device: embeds there.
        progress: called with passages embedded and passages in all.

    Returns:
        The folder `index/`; it is left as it is where it exists.

    Raises:
        ValueError: a damaged corpus or snapshot, another vocabulary, or an index kind that cannot hold the corpus.
        OSError: the disk has no room for the embeddings (found out before work starts).
    """
    out = snapshot if out is None else out
    finished, part = out / "index", out / f"index.{os.getpid()}.tmp"
    if finished.is_dir():
        return finished
    for leftover in out.glob("index.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    special, vocab_size = read_special(corpus_folder)
    tokens, titles = Ragged.open(corpus_folder, "tokens"), Ragged.open(corpus_folder, "titles")
    encoder = DualEncoder.load(snapshot / "retriever").to(device)
    if encoder.vocab_size != vocab_size:
        raise ValueError(
            f"{snapshot}: the retriever has a vocabulary of {encoder.vocab_size}, {corpus_folder} of {vocab_size}; "
            "build both with one tokenizer"
        )
    part.mkdir(parents=True)
    embeddings = allocate(part / "embeddings.npy", (len(tokens), encoder.dim))
    embed_corpus(encoder, tokens, titles, special, embeddings, progress)
    embeddings.flush()
    build_index(index_config, embeddings, whole=True).save(part)
    link = out / "embeddings.npy"
    link.unlink(missing_ok=True)
    os.link(part / "embeddings.npy", link)
    try:
        os.replace(part, finished)
    except OSError:
        if not finished.is_dir():  # else another process built the same one meanwhile
            raise
        shutil.rmtree(part, ignore_errors=True)
    return finished


def allocate(path: Path, shape: tuple[int, int]) -> np.memmap:
    """A float32 `.npy` file mapped for writing, its disk space reserved: a full disk is an error now, no crash later.

    Raises:
        OSError: no room.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            size = path.stat().st_size / 2**20
            raise OSError(
                error.errno, f"{error.strerror}: {size:.0f} MiB of embeddings; free space", str(path)
            ) from error
    return array


def open_snapshot(snapshot: Path, device: torch.device | str = "cpu") -> Index:
    """The finished index of a snapshot."""
    return open_index(snapshot / "index", device)


def agreement(ids_a: NDArray[np.int64], ids_b: NDArray[np.int64]) -> float:
    """Mean share of the top k that two searches have in common; 1 - agreement is the churn.

    Args:
        ids_a: [queries, k], distinct in each row.
        ids_b: the same shape.
    """
    if ids_a.shape != ids_b.shape:
        raise ValueError(f"the top k compared have shapes {ids_a.shape} and {ids_b.shape}: search with one k")
    both = np.sort(np.concatenate([ids_a, ids_b], axis=1), axis=1)
    return float(np.mean(np.sum(both[:, 1:] == both[:, :-1], axis=1) / ids_a.shape[1]))


class Builder:
    """Builds the index of a snapshot in another process, which ends with this one.

    Args:
        corpus: folder of the corpus stage.
        index_config: kind of index.
        threads: cores of the other process.
        device: None takes the last GPU, or the CPU where there is none.
    """

    def __init__(self, corpus: Path, index_config: IndexConfig, *, threads: int = 1, device: str | None = None) -> None:
        self.corpus, self.index_config, self.threads = corpus, index_config, threads
        gpus = torch.cuda.device_count()
        self.device = device or (f"cuda:{gpus - 1}" if gpus else "cpu")
        self.snapshot: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, snapshot: Path) -> None:
        """Start building `snapshot/index`; messages go to `snapshot/builder.log`."""
        self.stop()
        self.snapshot = snapshot
        root = str(Path(__file__).parents[2])
        threads = str(self.threads)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        command = [sys.executable, "-m", "rlm.retrieval.refresh", str(snapshot), str(self.corpus)]
        command += ["--index", json.dumps(to_plain(self.index_config)), "--device", self.device]
        command += ["--threads", threads, "--parent", str(os.getpid())]
        with open(snapshot / "builder.log", "wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def poll(self) -> bool:
        """Whether the index is finished.

        Raises:
            StageError: the builder failed (the end of what it said).
        """
        if self._process is None or self._process.poll() is None:
            return False
        return self._finished(self._process.returncode)

    def wait(self) -> None:
        """Until the index is finished; raises as `poll`."""
        if self._process is None:
            raise StageError("the index builder was not started")
        self._finished(self._process.wait())

    def _finished(self, code: int) -> bool:
        assert self.snapshot is not None
        if code == 0 and (self.snapshot / "index").is_dir():
            return True
        log = self.snapshot / "builder.log"
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
        remedy = ""
        if code < 0:
            remedy = (
                f" ({signal.Signals(-code).name}, most likely because memory ran out): free some, or set"
                " `pretrain.index_refresh.mode: sync`, and start again to go on from the last checkpoint"
            )
        raise StageError(f"the index builder of {self.snapshot} ended with status {code}{remedy}; see {log}:\n{tail}")

    def stop(self) -> None:
        """End the process if it runs; what it had written is discarded by the next build."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._process = None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlm.retrieval.refresh", description=build_snapshot_index.__doc__)
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--index", default=json.dumps(to_plain(ExactIndex())), help="JSON of the index configuration")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--parent", type=int, default=None, help="end when this process has ended")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)

    def watch(done: int, total: int) -> None:
        if options.parent is not None and os.getppid() != options.parent:
            sys.exit("the process that this index was built for has ended")

    plain = json.loads(options.index)
    config = KINDS[plain["kind"]](**plain)
    build_snapshot_index(options.snapshot, options.corpus, config, options.out, options.device, watch)


if __name__ == "__main__":
    main()
