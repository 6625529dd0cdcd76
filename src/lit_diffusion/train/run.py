"""Training: a config in, a trained model in the run's folder out."""

import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from lit_diffusion.checkpoint import build_denoiser, read_checkpoint
from lit_diffusion.common.build import build, refused
from lit_diffusion.common.configs import override, plain
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.files import locked, make_folder
from lit_diffusion.common.log import log, silence_warnings
from lit_diffusion.common.loggers import finish_wandb
from lit_diffusion.common.multirun import in_multirun
from lit_diffusion.common.run_names import named, training_name_and_tags
from lit_diffusion.conditions import ImageCondition, check_condition
from lit_diffusion.couplings import Coupling, warn_of_fresh_noise
from lit_diffusion.data.augment import Augment
from lit_diffusion.data.datamodule import ImageDataModule
from lit_diffusion.data.measured import measured
from lit_diffusion.guidance import Guidance
from lit_diffusion.samplers.base import Sampler
from lit_diffusion.times import Times
from lit_diffusion.train.callbacks.after_epochs import AfterEpochs
from lit_diffusion.train.callbacks.checkpointing import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from lit_diffusion.train.callbacks.samples import Samples
from lit_diffusion.train.callbacks.stopping import StopOnSignal, Stopped
from lit_diffusion.train.callbacks.wandb_id import WandbId, wandb_id
from lit_diffusion.train.checks import (
    check_augment,
    check_coupling,
    check_labels,
    check_lr_scheduler,
    check_metric,
    check_network,
    check_optimizer,
    check_values,
    check_weighting,
    is_ours,
)
from lit_diffusion.train.description import count_parameters, describe, git_commit
from lit_diffusion.train.hardware import check_hardware, precision_of_run, prepare_network
from lit_diffusion.train.module import LitDiffusion
from lit_diffusion.train.resume import check_same_run, has_ended
from lit_diffusion.weightings import Weighting

log_once = rank_zero_only(log.info)  # of several processes, the first one says it


def main(cfg: DictConfig) -> float | None:
    """Train; return the metric that Hydra's sweepers optimise, None if the run has none of this name.

    It is the best checkpoint's where that is chosen by this metric, else the last value.
    """
    metrics, objects = train(going_on(cfg) if in_multirun() else cfg)
    for callback in objects["trainer"].callbacks:
        if isinstance(callback, BestCheckpoint) and callback.monitor == cfg.optimized_metric:
            return None if callback.best_model_score is None else float(callback.best_model_score)
    return metrics.get(cfg.optimized_metric)


def going_on(cfg: DictConfig) -> DictConfig:
    """Return the config of a job of a multirun; one that was stopped goes on from its last checkpoint."""
    last = Path(cfg.out, "checkpoints", "last.ckpt")
    if cfg.ckpt or not last.is_file():
        return cfg
    if has_ended(cfg, read_checkpoint(last)):  # but was stopped before it could say so
        shutil.rmtree(last.parent)
        return cfg
    cfg = cfg.copy()
    cfg.ckpt = str(last)
    return cfg


def train(cfg: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Train as the config says, from the start or from ``cfg.ckpt``.

    Returns:
        The last value of every metric, and the objects of the run: trainer, module, datamodule.

    Raises:
        ConfigError: a value that can't work, found before training starts; or numbers that stop being
            finite.
    """
    silence_warnings()
    start = read_checkpoint(cfg.ckpt) if cfg.ckpt else None
    run = prepare(cfg, start)
    out = make_folder(cfg.out)
    for name in ("last", "best"):
        if cfg.callbacks.get(name):
            make_folder(cfg.callbacks[name].dirpath, f"callbacks.{name}.dirpath")
    check_folder(out, cfg.ckpt)
    with locked(out, "training") if rank_zero_only.rank == 0 else nullcontext():
        run.trainer.loggers = build_loggers(run.cfg, start)
        if cfg.trainer.precision == "auto":
            log_once("precision: {}, since {}".format(*precision_of_run(cfg, start)))
        log_once(describe(run.module))
        fit(run)
    for callback in run.callbacks:
        if isinstance(callback, Samples):
            log_once(f"samples: {callback.last_grid}")
    metrics = {name: float(value) for name, value in run.trainer.callback_metrics.items()}
    return metrics, {"trainer": run.trainer, "module": run.module, "datamodule": run.datamodule}


@dataclass(frozen=True)
class Training:
    """A training that is ready to start."""

    cfg: DictConfig
    datamodule: ImageDataModule
    module: LitDiffusion
    callbacks: list[L.Callback]
    trainer: L.Trainer


def prepare(cfg: DictConfig, start: dict[str, Any] | None = None) -> Training:
    """Build all parts of a training, so that what can't work is found; nothing is written.

    Nothing is fetched, unless the config leaves a number to the data.

    Args:
        cfg: its config.
        start: the checkpoint that it goes on from; None for none.

    Raises:
        ConfigError: a value that can't work.
    """
    check_values(cfg)
    check_hardware(cfg)
    cfg = measured(cfg)
    if start:
        check_same_run(cfg, start, cfg.ckpt)
    cfg = cfg.copy()
    cfg.trainer.precision, _ = precision_of_run(cfg, start)
    L.seed_everything(cfg.seed, verbose=False)
    datamodule = build(cfg.data, "data")
    if not isinstance(datamodule, ImageDataModule):
        raise ConfigError(
            f"data is a {type(datamodule).__name__}, no ImageDataModule: put your class under source:, as "
            "conf/data/mnist.yaml does"
        )
    module = build_module(cfg)
    check_labels(module.denoiser.num_classes, datamodule.num_classes)
    check_condition(module.condition, module.denoiser.condition_channels, datamodule.image_shape)
    check_augment(module)
    check_weighting(module)
    check_coupling(module)
    module.times.check(module.denoiser.schedule)
    check_network(module.denoiser, datamodule.image_shape)
    check_lr_scheduler(module, check_optimizer(module))
    guidance = Guidance.from_config(cfg.guidance)  # also sampling's default, after training
    guidance.applied(module.denoiser)
    guidance.check_dropout(module.label_dropout)
    callbacks = build_callbacks(cfg, module, datamodule)
    samplers = [sampler for c in callbacks if isinstance(sampler := getattr(c, "sampler", None), Sampler)]
    if any(sampler.stochastic for sampler in samplers):
        warn_of_fresh_noise(type(module.coupling).__name__)
    trainer = build_trainer(cfg, callbacks=[*callbacks, WandbId(), StopOnSignal()], logger=False)
    rank_zero_only.rank = trainer.global_rank  # not what another launcher left in the environment
    return Training(cfg, datamodule, module, callbacks, trainer)


def fit(run: Training) -> None:
    """Train to the end; whatever stops it, say how to go on."""
    try:
        run.trainer.fit(run.module, run.datamodule, ckpt_path=run.cfg.ckpt, weights_only=True)
    except BaseException as error:
        finish_wandb(exit_code=1)
        for callback in run.callbacks:
            if isinstance(callback, LastCheckpoint) and callback.path.is_file():
                log_once(f"stopped; to go on, give the same overrides and {override('ckpt', callback.path)}")
        if isinstance(error, Stopped):
            raise SystemExit(error.status) from None
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None  # which Lightning ends with a status of its own
        if isinstance(error, MisconfigurationException):
            raise ConfigError(f"Lightning refuses the run: {' '.join(str(error).split())}") from error
        raise
    finish_wandb()


def check_folder(out: Path, ckpt: str | None) -> None:
    """Raise ConfigError if the folder holds another run's checkpoints, which a training would overwrite."""
    folder = out / "checkpoints"
    own = ckpt is not None and Path(ckpt).resolve().parent == folder.resolve()
    if not own and (found := sorted(folder.glob("*.ckpt"))):
        raise ConfigError(
            f"out is {out}, which holds the checkpoints of another run: choose another out, or go on with "
            f"that run, {override('ckpt', found[-1])}"
        )


def build_module(cfg: DictConfig) -> LitDiffusion:
    """Return the LightningModule of a config, with the whole config in plain values as hyper-parameters."""
    module = build(cfg.module, "module")(
        denoiser=build_denoiser(cfg),
        optimizer=build(cfg.optimizer, "optimizer"),
        lr_scheduler=build_lr_scheduler(cfg.lr_scheduler),
        condition=build_optional(cfg, "condition", ImageCondition),
        augment=build_optional(cfg, "augment", Augment),
        weighting=build_optional(cfg, "weighting", Weighting),
        times=build_optional(cfg, "times", Times),
        coupling=build_optional(cfg, "coupling", Coupling),
    )
    config = plain(cfg)
    module.save_hyperparameters(
        {**config, "parameters": count_parameters(module), "git_commit": git_commit()}
    )
    prepare_network(module.denoiser.network, cfg)
    return module


def build_optional(cfg: DictConfig, part: str, kind: type) -> Any:
    """Return a part that a training may have, None if it has none; ConfigError for one of another kind."""
    if not cfg.get(part):
        return None
    built = build(cfg[part], part)
    if not isinstance(built, kind):
        raise ConfigError(f"{part} is a {type(built).__name__}, which is no {kind.__name__}")
    return built


def build_lr_scheduler(cfg: DictConfig) -> dict[str, Any]:
    """Return Lightning's lr_scheduler_config, with a function of the optimizer under "scheduler"; or {}."""
    options = plain(cfg)
    return (
        {**options, "scheduler": build(options.get("scheduler"), "lr_scheduler.scheduler")} if options else {}
    )


def build_callbacks(cfg: DictConfig, module: LitDiffusion, data: ImageDataModule) -> list[L.Callback]:
    """Return the config's callbacks.

    Raises:
        ConfigError: one of them can't work with the module's denoiser, or with the data.
    """
    try:
        callbacks = {name: build(node, f"callbacks.{name}") for name, node in cfg.callbacks.items() if node}
    except MisconfigurationException as error:
        raise refused("callbacks", error) from error
    for name, callback in callbacks.items():
        if not isinstance(callback, L.Callback):
            raise ConfigError(
                f"callbacks.{name} is a {type(callback).__name__}, which is no Lightning callback"
            )
        if getattr(callback, "monitor", None):
            validates = cfg.trainer.limit_val_batches != 0
            check_metric(f"callbacks.{name}.monitor", callback.monitor, validates, is_ours(cfg))
        if isinstance(callback, AfterEpochs):
            callback.check(module.denoiser, data)
    return [*callbacks.values()]


def build_loggers(cfg: DictConfig, start: dict[str, Any] | None) -> list[Logger]:
    """Return the config's loggers; W&B goes on in the run that the checkpoint came from.

    Of a multirun's jobs, which may all go on from one checkpoint, each is a run of its own.
    """
    loggers = cfg.logger.copy()
    if start and "wandb" in loggers and loggers.wandb.id is None and not in_multirun():
        loggers.wandb.id = wandb_id(start)
    if "wandb" in loggers:
        loggers.wandb = named(loggers.wandb, "train", *training_name_and_tags(cfg))
    for name, logger in loggers.items():
        if logger.get("save_dir"):
            make_folder(logger.save_dir, f"logger.{name}.save_dir")
    return [build(logger, f"logger.{name}") for name, logger in loggers.items()]


def build_trainer(cfg: DictConfig, **parts: Any) -> L.Trainer:
    """Return the trainer of a config.

    Raises:
        ConfigError: Lightning refuses one of its values.
    """
    try:
        saves = any(isinstance(c, Checkpoint) for c in parts.get("callbacks", []))
        return build(cfg.trainer, "trainer")(
            plugins=[AtomicCheckpointIO()], enable_checkpointing=saves, **parts
        )
    except ConfigError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError, MisconfigurationException) as error:
        reason = " ".join(str(error).split())
        texts = {key: value for key, value in cfg.trainer.items() if isinstance(value, str)}
        named = [f"trainer.{key} is {value}" for key, value in texts.items() if value in reason]
        which = f" ({', '.join(named)})" if named else ""
        raise ConfigError(f"Lightning refuses the trainer{which}: {reason}; choose another value") from error
