"""One Lightning run inside a stage: resumable, logged to the stage's events, deterministic at every step."""

import logging
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from rlm.config import Runtime
from rlm.data.datamodules import Batches, StepDataModule
from rlm.models.config import Training
from rlm.stages.stage import Context

LOG_EVERY = 10  # optimizer steps


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

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        shown = {name: value for name, value in metrics.items() if name != "epoch"}
        if shown and step is not None:
            self._context.log(shown, step)


class Pace(pl.Callback):
    """Seeds every step by its number, reports progress and steps per second."""

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
            start_method="spawn" if device == "cuda" else "fork",
            find_unused_parameters=True,
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
        callbacks=[
            Pace(context, training.steps),
            ModelCheckpoint(checkpoints, filename="{step}", every_n_train_steps=every, save_top_k=1, save_last=True),
            *(callbacks or []),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    last = checkpoints / "last.ckpt"
    module.train()  # transformers loads checkpoints for inference, and Lightning leaves the mode as it is
    trainer.fit(
        module,
        datamodule=StepDataModule(batches, training.steps, context.runtime.workers),
        ckpt_path=last if last.exists() else None,
        weights_only=True,
    )
    if trainer.interrupted:
        raise KeyboardInterrupt
    shutil.rmtree(checkpoints)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
