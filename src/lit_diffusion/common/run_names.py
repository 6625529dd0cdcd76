"""What tells runs apart at Weights & Biases: their names, groups and tags."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lit_diffusion.common.build import TARGET
from lit_diffusion.common.compose import config_files
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.multirun import in_multirun, varied_overrides

GROUPS = ("model", "schedule", "prediction", "data", "optimizer")  # whose choices are a run's tags


def named(logger: DictConfig, job_type: str, name: str, tags: list[str]) -> DictConfig:
    """Return the config of a W&B logger, with what it leaves open filled in.

    Args:
        logger: the config.
        job_type: the command.
        name: of the run; in a multirun, the overrides that its jobs differ in take its place.
        tags: of the run, added to the config's own.
    """
    logger = logger.copy()
    if isinstance(logger.tags, str):
        raise ConfigError(f"logger.wandb.tags is {logger.tags}: give a list, [{logger.tags}]")
    if in_multirun():
        name = ",".join(varied_overrides()) or name
        logger.group = logger.group or Path(HydraConfig.get().sweep.dir).name
    logger.name = logger.name or name
    logger.job_type = logger.job_type or job_type
    logger.tags = [*logger.tags, *(tag for tag in tags if tag not in logger.tags)]
    return logger


def training_name(cfg: DictConfig) -> str:
    """Return a training's name by its choices and its seed, such as small_unet-flow-v-s0."""
    return "-".join([*(choice_of(group, cfg) for group in GROUPS[:3]), f"s{cfg.seed}"])


def training_tags(cfg: DictConfig) -> list[str]:
    """Return a tag for each of the groups' choices, such as schedule=flow."""
    return [f"{group}={choice_of(group, cfg)}" for group in GROUPS]


def choice_of(group: str, cfg: DictConfig) -> str:
    """Return the name of a group's choice, by its class; the class's own name, if no file has it."""
    target = class_of(cfg[group])
    names = (path.stem for path in config_files(group) if class_of(OmegaConf.load(path)) == target)
    return next(names, str(target).rpartition(".")[2])


def class_of(node: Any) -> str | None:
    """Return the full name of the class that a choice is about; data are about their source's."""
    return node.source.get(TARGET) if "source" in node else node.get(TARGET)
