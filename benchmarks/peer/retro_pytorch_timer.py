"""Times `retro-pytorch` 0.3.9 for the benchmarks, in an environment of its own; imports nothing of ours.

Reads lines of JSON and answers each with one: `{"what": "step", "head": 32, "bf16": false, "steps": 2}` with the
seconds of so many forward and backward passes, `{"what": "neighbours", "folder": ..., "encoder": ..., "bf16": ...}`
with those of embedding, indexing and searching the chunks of `chunks.npy` there.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch


def stepper(head: int):
    """The settings of the benchmark; `heads` has no effect on this package: it has always 8."""
    from retro_pytorch import RETRO

    torch.manual_seed(0)
    model = RETRO(
        num_tokens=8_192,
        max_seq_len=512,
        enc_dim=256,
        enc_depth=2,
        enc_cross_attn_layers=(1,),
        dec_dim=256,
        dec_depth=6,
        dec_cross_attn_layers=(3, 6),
        dim_head=head,
        chunk_size=64,
    )
    ids, neighbours = torch.randint(1, 8_192, (4, 513)), torch.randint(1, 8_192, (4, 8, 2, 128))

    def step(bf16: bool) -> None:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(ids, retrieved=neighbours, return_loss=True)
        loss.backward()

    return step


def steps(asked: dict, known: dict) -> dict:
    head = asked["head"]
    if head not in known:
        known[head] = stepper(head)
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(asked["steps"]):
        known[head](asked["bf16"])
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - busy}


class Encoder:
    """What the package calls for embeddings, with the encoder it is given instead of the one it downloads."""

    def __init__(self, folder: str, bf16: bool) -> None:
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16 if bf16 else torch.float32).eval()
        self.seconds = 0.0

    def __call__(self, input_ids, attention_mask, output_hidden_states):
        start = time.perf_counter()
        found = self.model(input_ids=input_ids, attention_mask=attention_mask)
        self.seconds += time.perf_counter() - start
        found.hidden_states = (found.last_hidden_state.float(),)
        return found


def neighbours(asked: dict, known: dict) -> dict:
    """Self-search of chunks with two neighbours, as its training wrapper calls it."""
    from retro_pytorch import retrieval

    os.chdir(asked["folder"])
    chunks, documents = np.load("chunks.npy"), np.load("documents.npy")
    for name, array in (("chunks.dat", chunks), ("documents.dat", documents)):
        array.astype(np.int32).tofile(name)
    retrieval.MODEL = Encoder(asked["encoder"], asked["bf16"])
    # The width given to the outer function does not reach this one.
    width = retrieval.chunks_to_index_and_embed.__kwdefaults__["embed_dim"] = retrieval.MODEL.model.config.hidden_size
    start = time.perf_counter()
    retrieval.chunks_to_precalculated_knn_(
        num_nearest_neighbors=2,
        num_chunks=len(chunks),
        chunk_size=64,
        chunk_memmap_path=str(Path("chunks.dat").resolve()),
        doc_ids_memmap_path="documents.dat",
        embed_dim=width,
        force_reprocess=True,
    )
    return {"seconds": time.perf_counter() - start, "encoder_seconds": retrieval.MODEL.seconds}


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    known: dict = {}
    for line in sys.stdin:
        asked = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            answer = {"step": steps, "neighbours": neighbours}[asked["what"]](asked, known)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
