"""What the training command does."""

import logging
import subprocess
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
import wandb
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from omegaconf import DictConfig, OmegaConf

from lit_diffusion import checkpoint
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.images import make_folder
from lit_diffusion.common.log import log
from lit_diffusion.common.loggers import WandbId
from lit_diffusion.train.callbacks.after_epochs import AfterEpochs
from lit_diffusion.train.callbacks.checkpointing import AtomicCheckpointIO, LastCheckpoint
from lit_diffusion.train.callbacks.samples import Samples
from lit_diffusion.train.module import LitDiffusion

say = rank_zero_only(log.info)

TERMINATED = 143  # a shell's exit status for SIGTERM


def main(cfg: DictConfig) -> float | None:
    """Train; return the metric that Hydra's sweepers optimise."""
    metrics, _ = train(cfg)
    return metrics.get(cfg.optimized_metric)


def train(cfg: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Train as the config says, from the start or from ``cfg.ckpt``.

    Returns:
        The last value of every metric, and the objects of the run: trainer, module, datamodule.

    Raises:
        ConfigError: a value that can't work; found before training starts.
    """
    check(cfg)
    make_folder(cfg.out)
    quieten()
    start = checkpoint.read(cfg.ckpt) if cfg.ckpt else None
    if start:
        checkpoint.check_same_run(cfg, start, cfg.ckpt)
    L.seed_everything(cfg.seed, verbose=False)
    datamodule = instantiate(cfg.data, _convert_="all")
    module = build_module(cfg)
    if 0 < module.denoiser.num_classes < datamodule.num_classes:
        raise ConfigError(
            f"model.num_classes is {module.denoiser.num_classes}, but the data have {datamodule.num_classes} "
            f"classes: choose {datamodule.num_classes}, or 0 for a model without labels"
        )
    callbacks = [instantiate(c, _convert_="all") for c in cfg.callbacks.values() if c]
    for callback in callbacks:
        if isinstance(callback, AfterEpochs):
            callback.check(module.denoiser)
    loggers = build_loggers(cfg, start)
    trainer = build_trainer(cfg, callbacks=[*callbacks, WandbId()], logger=loggers)
    say(describe(module))
    try:
        trainer.fit(module, datamodule, ckpt_path=cfg.ckpt, weights_only=True)
    except BaseException as error:
        wandb.finish(exit_code=1)
        for callback in callbacks:
            if isinstance(callback, LastCheckpoint) and Path(callback.dirpath, "last.ckpt").is_file():
                say(f"stopped; to go on, give the same overrides and ckpt={callback.dirpath}/last.ckpt")
        if isinstance(error, SIGTERMException):
            raise SystemExit(TERMINATED) from None
        raise
    wandb.finish()
    for callback in callbacks:
        if isinstance(callback, Samples):
            say(f"samples: {callback.last_grid}")
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return metrics, {"trainer": trainer, "module": module, "datamodule": datamodule}


def build_module(cfg: DictConfig) -> LitDiffusion:
    """The LightningModule of a config, its hyper-parameters the whole config in plain values."""
    module = instantiate(cfg.module, _convert_="all")(
        denoiser=checkpoint.build_denoiser(cfg),
        optimizer=instantiate(cfg.optimizer, _convert_="all"),
        lr_scheduler=instantiate(cfg.lr_scheduler, _convert_="all"),
    )
    config = OmegaConf.to_container(cfg, resolve=True)
    module.save_hyperparameters(
        {**config, "parameters": count_parameters(module), "git_commit": git_commit()}
    )
    if cfg.compile:
        module.denoiser.network.compile()
    return module


def build_loggers(cfg: DictConfig, start: dict[str, Any] | None) -> list[Logger]:
    """The loggers asked for; W&B goes on in the run that the checkpoint came from."""
    loggers = cfg.logger.copy()
    if start and "wandb" in loggers and loggers.wandb.id is None:
        loggers.wandb.id = start["callbacks"]["wandb"]["id"]
    return [instantiate(logger, _convert_="all") for logger in loggers.values()]


def build_trainer(cfg: DictConfig, **parts) -> L.Trainer:
    """The trainer of a config; what Lightning won't take is the user's to mend."""
    try:
        saves = any(isinstance(c, ModelCheckpoint) for c in parts.get("callbacks", []))
        return instantiate(cfg.trainer, _convert_="all")(
            plugins=[AtomicCheckpointIO()], enable_checkpointing=saves, **parts
        )
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise ConfigError(f"Lightning refuses the trainer: {' '.join(str(error).split())}") from error


def check(cfg: DictConfig) -> None:
    """Refuse what the machine or the launcher can't do."""
    accelerator, strategy = cfg.trainer.accelerator, cfg.trainer.strategy
    if cfg.trainer.log_every_n_steps < 1:
        raise ConfigError(f"trainer.log_every_n_steps is {cfg.trainer.log_every_n_steps}: choose 1 or more")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError("trainer wants a GPU, but torch sees none here: use trainer=cpu")
    if cfg.seed < 0:
        raise ConfigError(f"seed is {cfg.seed}: choose 0 or a positive integer")
    multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if multirun and strategy in ("ddp", "auto") and cfg.trainer.devices != 1:
        raise ConfigError(
            f"trainer.strategy is {strategy} with trainer.devices {cfg.trainer.devices}, which starts this "
            "command anew for each process and would start the whole multirun anew: use "
            "trainer.strategy=ddp_spawn with -m"
        )


def quieten() -> None:
    """Silence Lightning's advertisements, and warnings about what is meant to be so here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # batches are gathered from memory
        ".*sync_dist=True.*",  # our metrics are synchronised already
        ".*Checkpoint directory .* exists.*",
        ".*smaller than the logging interval.*",
        ".*logs directory .* exists.*",
        ".*dataloader is not resumable.*",  # the order of our batches is
        ".*dirpath has changed.*",  # a resumed run has a folder of its own
        ".*treespec, LeafSpec.*",  # Lightning's own use of torch
    ):
        warnings.filterwarnings("ignore", message)


def describe(module: LitDiffusion) -> str:
    """What is about to be trained, in a line."""
    denoiser = module.denoiser
    parts = (type(part).__name__ for part in (denoiser.network, denoiser.schedule, denoiser.prediction))
    return f"{' / '.join(parts)}, {count_parameters(module):,} parameters"


def count_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def git_commit() -> str | None:
    """The commit of this package's folder, if it is under git."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
