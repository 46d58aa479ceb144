"""A store as finished stages leave it, made of given answers."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rlm.config import to_plain
from rlm.stages.stage import Stage
from rlm.stages.store import stage_folder
from rlm.table import AblationTable, Cell, distinct_stages, load_table

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "experiments" / "realm_table2.yaml"


def table_and_cells(seeds: Sequence[int] = (0,), **options: object) -> tuple[AblationTable, list[Cell]]:
    table = load_table(TABLE, "tiny", seeds=seeds, **options)  # type: ignore[arg-type]
    return table, table.cells(lambda source: "")


def write_stage(
    store: Path, stage: Stage, metrics: Mapping[str, float], files: Mapping[str, Sequence[object]], **fields: object
) -> Path:
    """A finished stage with JSON Lines files."""
    folder = stage_folder(store, stage)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "name": stage.name,
        "key": stage.key,
        "config": to_plain(stage.config),
        "core_seconds": 10.0,
        "gpu_seconds": 0.0,
        "started": "2026-01-02T03:04:05+00:00",
        "device": "cpu (a processor)",
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "metrics": dict(metrics),
        "files": {},
        **fields,
    }
    for name, lines in files.items():
        written = "".join(json.dumps(line) + "\n" for line in lines).encode()
        (folder / name).write_bytes(written)
        record["files"][name] = {"bytes": len(written), "sha256": hashlib.sha256(written).hexdigest()}  # type: ignore[index]
    (folder / "stage.json").write_text(json.dumps(record))
    return folder


def answers(rate: float, questions: int, seed: int) -> np.ndarray:
    """Which questions a made-up system answers: nested, so that a better one answers what a worse one does."""
    difficulty = np.random.default_rng(7).random(questions)
    noise = np.random.default_rng(1000 + seed).normal(0, 0.05, questions)
    return difficulty + noise < rate


def finish(
    store: Path,
    cells: Sequence[Cell],
    rate: Callable[[Cell], float] = lambda cell: 0.5,
    questions: int = 200,
    skip: Callable[[Cell, str], bool] = lambda cell, role: False,
) -> None:
    """Finish all stages that the cells need but for those skipped, with made-up results."""
    for stage, (cell, *_) in distinct_stages(cells).values():
        if skip(cell, stage.name):
            continue
        write_stage(store, stage, *_outputs(stage, cell, rate(cell), questions))


def _outputs(stage: Stage, cell: Cell, rate: float, questions: int) -> tuple[dict, dict]:
    curve = [
        {"step": step, "time": 0.0, "metrics": {"loss": 5 / (1 + step / 40), "steps_per_second": 9.0}}
        for step in range(10, 130, 10)
    ]
    match stage.name:
        case "evaluate":
            right = answers(rate, questions, cell.seed)
            lines = [
                {
                    "id": f"q{i}",
                    "question": f"q {i}?",
                    "prediction": "x",
                    "exact_match": int(hit),
                    "retrieved": int(hit),
                }
                for i, hit in enumerate(right)
            ]
            return {"exact_match": 100 * float(right.mean()), "recall@5": 100 * float(right.mean())}, {
                "predictions.jsonl": lines
            }
        case "zero_shot":
            found = answers(rate + 0.1, questions, cell.seed)
            ranks = [1 + i % 7 if hit else None for i, hit in enumerate(found)]
            lines = [{"id": f"q{i}", "rank": rank} for i, rank in enumerate(ranks)]
            metrics = {f"zero_shot_recall@{k}": _recall(ranks, k) for k in (1, 5, 20)}
            steps = []
            if stage.inputs["retriever"].name == "pretrain":
                steps = [
                    {"step": s, **{f"recall@{k}": _recall(ranks, k) * (0.4 + s / 200) for k in (1, 5, 20)}}
                    for s in range(0, 121, 20)
                ]
            return metrics, {"ranks.jsonl": lines, "steps.jsonl": steps}
        case "pretrain":
            extra = []
            for step in range(10, 130, 10):
                extra.append({"step": step, "time": 0.0, "metrics": {"index_age": float(step % 40)}})
                extra.append({"step": step, "time": 0.0, "metrics": {"agreement": 1 - (step % 40) / 80}})
                if step % 40 == 0:
                    extra.append({"step": step, "time": 0.0, "metrics": {"churn": 0.5 - step / 400, "swap_delay": 0.0}})
            return {"loss": 1.0}, {"events.jsonl": [*curve, *extra]}
        case "warm_start" | "ict" | "finetune":
            return {"loss": 1.0}, {"events.jsonl": curve}
        case _:
            return {}, {"data.jsonl": []}


def _recall(ranks: Sequence[int | None], k: int) -> float:
    return 100 * float(np.mean([rank is not None and rank <= k for rank in ranks]))
