"""Snapshots and their indexes, built here, in another process, and by processes that are killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from rlm.errors import StageError
from rlm.retrieval.config import ExactIndex, FaissIvfPq
from rlm.retrieval.encoder import DualEncoder, embed_corpus
from rlm.retrieval.refresh import Builder, agreement, build_snapshot_index, open_snapshot, write_snapshot


@pytest.fixture
def snapshot(dual_encoder, tmp_path):
    return write_snapshot(dual_encoder, tmp_path / "snapshots", 40)


def test_write_snapshot__holds_the_retriever_and_is_written_once(dual_encoder, snapshot):
    assert snapshot.name == "40" and not list(snapshot.parent.glob("*.tmp"))
    before = (snapshot / "retriever" / "model.safetensors").stat().st_mtime_ns
    assert write_snapshot(dual_encoder, snapshot.parent, 40) == snapshot
    assert (snapshot / "retriever" / "model.safetensors").stat().st_mtime_ns == before
    torch.testing.assert_close(DualEncoder.load(snapshot / "retriever").state_dict(), dual_encoder.state_dict())


def test_write_snapshot__discards_what_a_killed_process_left(dual_encoder, tmp_path):
    left = tmp_path / "40.tmp" / "retriever"
    left.mkdir(parents=True)
    (left / "stray").write_text("half")
    snapshot = write_snapshot(dual_encoder, tmp_path, 40)
    assert not (snapshot / "retriever" / "stray").exists() and not left.exists()


def test_build_snapshot_index__finds_what_the_embeddings_say(snapshot, corpus_folder, dual_encoder, small_corpus):
    seen = []
    index = build_snapshot_index(snapshot, corpus_folder, ExactIndex(), progress=lambda *state: seen.append(state))
    assert index == snapshot / "index" and seen[-1] == (60, 60)
    expected = np.zeros((60, 16), np.float32)
    embed_corpus(dual_encoder, *small_corpus, expected)
    np.testing.assert_array_equal(np.load(snapshot / "embeddings.npy"), expected)
    queries = torch.from_numpy(expected[:10])
    np.testing.assert_array_equal(
        open_snapshot(snapshot).search(queries, 1)[1][:, 0], (expected[:10] @ expected.T).argmax(1)
    )


def test_builder__builds_the_same_index_in_another_process(snapshot, corpus_folder, tmp_path):
    builder = Builder(corpus_folder, ExactIndex(), device="cpu")
    builder.start(snapshot)
    builder.wait()
    assert builder.poll()
    here = build_snapshot_index(snapshot, corpus_folder, ExactIndex(), out=tmp_path / "here")
    files = sorted(path.name for path in here.iterdir())
    assert files == sorted(path.name for path in (snapshot / "index").iterdir())
    for name in files:
        assert (here / name).read_bytes() == (snapshot / "index" / name).read_bytes(), name


def test_builder__tells_why_it_failed(snapshot, corpus_folder):
    builder = Builder(corpus_folder, FaissIvfPq(), device="cpu")
    pytest.importorskip("faiss", reason="needs faiss (extra faiss-cpu)")
    builder.start(snapshot)
    with pytest.raises(StageError, match=r"(?s)ended with status 1; see .*builder\.log.*at least 256 passages"):
        builder.wait()
    assert not (snapshot / "index").exists()


def test_builder__killed_leaves_no_half_index_and_the_next_one_finishes(snapshot, corpus_folder):
    builder = Builder(corpus_folder, ExactIndex(), device="cpu")
    builder.start(snapshot)
    while not list(snapshot.glob("index*")):  # it has begun to write
        assert builder._process.poll() is None
        time.sleep(0.001)
    builder._process.kill()
    with pytest.raises(StageError, match="ended with status -9"):
        builder.wait()
    assert not (snapshot / "index").exists() or len(open_snapshot(snapshot)) == 60
    builder.start(snapshot)
    builder.wait()
    assert len(open_snapshot(snapshot)) == 60 and not list(snapshot.glob("*.tmp"))


@pytest.mark.parametrize("moment", ["build_index", "os.replace"])
def test_build_snapshot_index__killed_at_any_moment_is_built_again(moment, snapshot, corpus_folder, tmp_path):
    killed = f"""
import os, signal
from pathlib import Path
from rlm.retrieval import refresh
from rlm.retrieval.config import ExactIndex
refresh.{moment} = lambda *arguments, **more: os.kill(os.getpid(), signal.SIGKILL)
refresh.build_snapshot_index(Path({str(snapshot)!r}), Path({str(corpus_folder)!r}), ExactIndex())
"""
    assert subprocess.run([sys.executable, "-c", killed]).returncode == -signal.SIGKILL
    assert not (snapshot / "index").exists() and list(snapshot.glob("index.*.tmp"))
    build_snapshot_index(snapshot, corpus_folder, ExactIndex())
    whole = build_snapshot_index(snapshot, corpus_folder, ExactIndex(), out=tmp_path / "undisturbed")
    for path in whole.iterdir():
        assert path.read_bytes() == (snapshot / "index" / path.name).read_bytes()
    assert sorted(path.name for path in snapshot.iterdir()) == ["embeddings.npy", "index", "retriever"]


def test_builder__ends_with_the_process_that_started_it(snapshot, corpus_folder, tmp_path):
    parent = f"""
import os, time
from pathlib import Path
from rlm.retrieval.config import ExactIndex
from rlm.retrieval.refresh import Builder
builder = Builder(Path({str(corpus_folder)!r}), ExactIndex(), device="cpu")
os.environ["PYTHONPATH"] = {str(tmp_path)!r}
builder.start(Path({str(snapshot)!r}))
print(builder._process.pid, flush=True)
os._exit(0)
"""
    # the builder begins after its parent has gone
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(1)")
    started = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    deadline = time.monotonic() + 60
    while _runs(int(started.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (snapshot / "index").exists()
    assert "the process that this index was built for has ended" in (snapshot / "builder.log").read_text()


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_build_snapshot_index__refuses_a_retriever_of_another_vocabulary(snapshot, corpus_folder, tmp_path):
    other = tmp_path / "corpus"
    shutil.copytree(corpus_folder, other)
    described = json.loads((other / "corpus.json").read_text())
    (other / "corpus.json").write_text(json.dumps(described | {"vocab_size": 91}))
    with pytest.raises(ValueError, match=r"vocabulary of 90, .* of 91; build both with one tokenizer"):
        build_snapshot_index(snapshot, other, ExactIndex())


def test_build_snapshot_index__names_a_damaged_corpus(snapshot, corpus_folder, tmp_path):
    path = shutil.copytree(corpus_folder, tmp_path / "corpus") / "corpus.json"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"corpus\.json: no corpus, or a damaged one"):
        build_snapshot_index(snapshot, path.parent, ExactIndex())
    assert not (snapshot / "index").exists()


def test_agreement__counts_shared_ids_whatever_their_order():
    rng = np.random.default_rng(0)
    a, b = (np.stack([rng.permutation(15)[:6] for _ in range(40)]) for _ in range(2))
    expected = np.mean([len(set(left) & set(right)) / 6 for left, right in zip(a.tolist(), b.tolist(), strict=True)])
    assert agreement(a, b) == pytest.approx(expected) and 0 < expected < 1
    assert agreement(a, a[:, ::-1]) == 1.0 and agreement(a, a + 100) == 0.0
    with pytest.raises(ValueError, match="search with one k"):
        agreement(a, b[:, :5])
