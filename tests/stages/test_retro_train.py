"""Training RETRO as a stage: killed and started again, fitted to a GPT-2, and beside the language model it shares."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from rlm.data.documents import Documents
from rlm.models.retro import build_retro
from rlm.models.retro_config import PretrainedDecoder
from rlm.models.retro_training import load_retro, save_retro
from rlm.stages import training
from rlm.stages.retro_train import WEIGHTS
from tests.stages.retro_world import MODEL, STEPS, TRAIN, train, write_retro_world
from tests.worlds import Surroundings


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_retro_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True, scope="module")
def every_step():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "LOG_EVERY", 1)
        yield


@pytest.fixture(scope="module")
def undisturbed(world, every_step, tmp_path_factory):
    """Folder and context of a run that nothing stopped."""
    context = Surroundings()
    return train(tmp_path_factory.mktemp("whole"), world.training, context=context), context


def losses(context):
    return {step: metrics["loss"] for step, metrics in context.logged if "loss" in metrics}


class Stops(Surroundings):
    """Raises when a step is done."""

    def progress(self, done, total, **shown):
        super().progress(done, total, **shown)
        if done == 9:
            raise RuntimeError("killed")


KILLED_PROGRAM = """
import os, signal, sys
from pathlib import Path
import torch
from tests.stages.retro_world import train

folder, *inputs = map(Path, sys.argv[1:])
save, saved = torch.save, []

def save_half(checkpoint, path):
    save(checkpoint, path)
    saved.append(path)
    if len(saved) == 5:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = save_half
train(folder, dict(zip(("text", "corpus", "neighbours"), inputs, strict=True)))
"""


def raise_in_step_9(world, root, folder) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        train(folder, world.training, context=Stops())


def kill_in_the_checkpoint_of_step_10(world, root, folder) -> None:
    inputs = [str(world.training[name]) for name in ("text", "corpus", "neighbours")]
    command = [sys.executable, "-c", KILLED_PROGRAM, str(folder), *inputs]
    run = subprocess.run(command, capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": "."})
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "last.ckpt.tmp"}


@pytest.mark.parametrize("stop", [raise_in_step_9, kill_in_the_checkpoint_of_step_10])
def test_run__ends_with_the_same_bits_when_it_was_killed(world, undisturbed, root, tmp_path, stop) -> None:
    (whole, first), again = undisturbed, Surroundings()
    stop(world, root, tmp_path)
    killed = train(tmp_path, world.training, context=again)
    assert again.shown[0] == (9, STEPS), "it went on from the checkpoint of step 8"
    assert (killed / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert losses(again) == {step: loss for step, loss in losses(first).items() if step >= 8}


def test_run__learns(undisturbed) -> None:
    found = losses(undisturbed[1])
    assert found[STEPS - 1] < 0.9 * found[0]


def test_run__of_a_language_model_reads_no_neighbours(world, tmp_path) -> None:
    alone = replace(MODEL, cca_layers=())
    inputs = {"text": world.text}
    folder = train(tmp_path / "base", inputs, alone, replace(TRAIN, k=0))
    assert {name.split(".")[0] for name in load_file(folder / WEIGHTS)} == {"decoder"}
    torch.manual_seed(0)
    ours = build_retro(MODEL, 400).decoder.state_dict()
    torch.manual_seed(0)
    theirs = build_retro(alone, 400).decoder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs), "both start from the same decoder"


def test_run__of_a_gpt2_leaves_its_weights_as_they_are(world, tmp_path) -> None:
    vocab_size = Documents.open(world.text).vocab_size
    torch.manual_seed(3)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, n_positions=64, n_embd=16, n_layer=2, n_head=2))
    base.save_pretrained(tmp_path / "gpt2")
    fitted = replace(MODEL, decoder=PretrainedDecoder(name=str(tmp_path / "gpt2")))
    folder = train(tmp_path / "fitted", world.training, fitted)
    found, given = load_file(folder / WEIGHTS), dict(base.named_parameters())
    prefix = "decoder.model."
    frozen = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    assert frozen.keys() == given.keys()
    assert all(torch.equal(value, given[name]) for name, value in frozen.items())
    torch.manual_seed(0)
    fresh = dict(build_retro(fitted, vocab_size).named_parameters())
    changed = {name for name in found if not name.startswith(prefix) and not torch.equal(found[name], fresh[name])}
    assert changed == {name for name in found if not name.startswith(prefix)}


@pytest.mark.parametrize("tied", [True, False])
def test_run__fitted_to_a_language_model_leaves_it_as_it_is(world, tmp_path, tied) -> None:
    model = replace(MODEL, decoder=replace(MODEL.decoder, tie_embeddings=tied))
    base = train(tmp_path / "base", {"text": world.text}, replace(model, cca_layers=()), replace(TRAIN, k=0))
    folder = train(tmp_path / "fitted", {**world.training, "base": base}, model)
    given, found = load_file(base / WEIGHTS), load_file(folder / WEIGHTS)
    assert all(torch.equal(value, found[name]) for name, value in given.items())
    torch.manual_seed(0)
    fresh = dict(build_retro(model, Documents.open(world.text).vocab_size).named_parameters())
    assert not any(torch.equal(found[name], fresh[name]) for name in found.keys() - given.keys())


def test_run__refuses_a_gpt2_of_another_vocabulary(world, tmp_path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=77, n_positions=64, n_embd=8, n_layer=1, n_head=1)).save_pretrained(
        tmp_path / "gpt2"
    )
    other = replace(MODEL, decoder=PretrainedDecoder(name=str(tmp_path / "gpt2")))
    with pytest.raises(ValueError, match="has a vocabulary of 77, the corpus of"):
        train(tmp_path / "fitted", world.training, other)


@pytest.mark.parametrize("tied", [True, False])
def test_load_retro__gives_back_what_was_saved(tmp_path, tied) -> None:
    config = replace(MODEL, decoder=replace(MODEL.decoder, tie_embeddings=tied))
    model = build_retro(config, 50)
    save_retro(model, tmp_path / WEIGHTS)
    again = load_retro(config, 50, tmp_path / WEIGHTS)
    ids = torch.randint(50, (2, 30))
    with torch.no_grad():
        assert torch.equal(again(ids), model.eval()(ids))
