"""Stage: BLEU and chrF of translations, by sacrebleu."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from rlm.metrics.translation import bleu, chrf, sentence_statistics, signatures
from rlm.stages.mt_translate import TRANSLATIONS
from rlm.stages.stage import Context

FORMULAS = {"bleu": bleu, "chrf": chrf}


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `sentences.jsonl`: of each its id and the statistics that the figures of a corpus are made from; and
    `signatures.json`."""
    with (inputs["translations"] / TRANSLATIONS).open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    found = sentence_statistics([line["hypothesis"] for line in lines], [line["reference"] for line in lines])
    with (folder / "sentences.jsonl").open("w", encoding="utf-8") as file:
        for number, line in enumerate(lines):
            statistics = {name: rows[number] for name, rows in found.items()}
            file.write(json.dumps({"id": line["id"], **statistics}, ensure_ascii=False) + "\n")
    (folder / "signatures.json").write_text(json.dumps(signatures()), encoding="utf-8")
    sums = {name: np.array(rows, np.float64).sum(0) for name, rows in found.items()}
    return {name: float(FORMULAS[name](each)) for name, each in sums.items()} | {"sentences": len(lines)}
