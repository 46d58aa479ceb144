"""One Lightning run inside a stage: resumable, logged to the stage's events, deterministic at every step."""

import logging
import os
import shutil
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from rlm.config import Runtime
from rlm.data.datamodules import Batches, StepDataModule
from rlm.models.config import Training
from rlm.stages.stage import Context

LOG_EVERY = 10  # optimizer steps
# Of DDP's processes; CUDA does not survive a fork.
START_METHOD: dict[str, Literal["spawn", "fork"]] = {"cuda": "spawn", "cpu": "fork"}


class EventLogger(Logger):
    """Hands Lightning's metrics to the stage's events, from which they reach MLflow."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context

    @property
    def name(self) -> str:
        return "events"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass  # the configuration is in stage.json

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        shown = {name: value for name, value in metrics.items() if name != "epoch"}
        if shown and step is not None:
            self._context.log(shown, step)


class Checkpoints(ModelCheckpoint):
    """One checkpoint, `last.ckpt`, every so many steps, but not of the last: a run started again has a step to take,
    and with it the metrics that it returns.
    """

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__(folder, every_n_train_steps=every, save_top_k=0, save_last=True, enable_version_counter=False)

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.global_step < trainer.max_steps:
            super().on_train_batch_end(trainer, *arguments)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pass


class WholeFiles(TorchCheckpointIO):
    """Writes beside the last checkpoint, which it replaces by one rename; Lightning's own way is by copy from /tmp."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        torch.save(checkpoint, f"{path}.tmp")
        os.replace(f"{path}.tmp", path)


class Pace(pl.Callback):
    """Seeds every step by its number, reports progress and steps per second.

    It must be the last callback, for those before it may draw random numbers or not, as an index is built or found.
    """

    def __init__(self, context: Context, steps: int) -> None:
        self.context, self.steps = context, steps
        self.started, self.first = time.monotonic(), 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started, self.first = time.monotonic(), trainer.global_step

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        # Dropout depends on nothing but the step, so a resumed run repeats an undisturbed one.
        torch.manual_seed((self.context.seed << 32) + trainer.global_step * trainer.world_size + trainer.global_rank)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        step = trainer.global_step
        if trainer.is_global_zero and (step % LOG_EVERY == 0 or step == self.steps):
            rate = (step - self.first) / (time.monotonic() - self.started)
            shown = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.context.progress(step, self.steps, steps_per_second=rate, **shown)
            self.context.log({"steps_per_second": rate}, step)


def seed_everything(context: Context) -> None:
    """Seeds what is drawn before the first step: new weights."""
    torch.manual_seed(context.seed)


def accelerator(runtime: Runtime) -> str:
    """`cpu` or `cuda`, as asked for or as found."""
    if runtime.device != "auto":
        return runtime.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def autocast(training: Training, runtime: Runtime) -> torch.autocast:
    """The precision that `training` asks for, outside a Trainer."""
    return torch.autocast(accelerator(runtime), torch.bfloat16, enabled=training.precision == "bf16")


def fit(
    module: pl.LightningModule,
    batches: Batches,
    training: Training,
    folder: Path,
    context: Context,
    callbacks: list[pl.Callback] | None = None,
) -> dict[str, float]:
    """Train to `training.steps`, from the last checkpoint in `folder` where there is one.

    Returns:
        The metrics of the last step.
    """
    context.all_read()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
    warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")  # batches are functions of the step
    device = accelerator(context.runtime)
    devices = context.runtime.devices
    strategy: Any = "auto"
    if devices > 1:
        strategy = DDPStrategy(
            process_group_backend="nccl" if device == "cuda" else "gloo",
            start_method=START_METHOD[device],
            find_unused_parameters=True,
            timeout=timedelta(days=7),  # the other ranks wait while the first builds an index
        )
    checkpoints = folder / "checkpoints"
    every = max(1, min(training.steps // 10, 1000))
    trainer = pl.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=devices,
        strategy=strategy,
        precision="bf16-mixed" if training.precision == "bf16" else "32-true",
        max_steps=training.steps,
        gradient_clip_val=1.0,
        logger=EventLogger(context),
        log_every_n_steps=LOG_EVERY,
        callbacks=[*(callbacks or []), Pace(context, training.steps), Checkpoints(checkpoints, every)],
        plugins=[WholeFiles()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    last = checkpoints / "last.ckpt"
    module.train()  # transformers loads checkpoints for inference, and Lightning leaves the mode as it is
    try:
        trainer.fit(
            module,
            datamodule=StepDataModule(batches, training.steps, context.runtime.workers),
            ckpt_path=last if last.exists() else None,
            weights_only=True,
        )
    except SystemExit:
        if trainer.interrupted:  # Lightning turns Ctrl-C into an exit
            raise KeyboardInterrupt from None
        raise
    shutil.rmtree(checkpoints, ignore_errors=True)  # a short run has none
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
