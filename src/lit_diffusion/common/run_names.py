"""What tells runs apart at Weights & Biases: their names, groups and tags."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lit_diffusion.common.build import TARGET
from lit_diffusion.common.compose import name_of_choice
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.multirun import in_multirun, varied_overrides

NAMED = ("model", "schedule", "prediction")  # groups whose choices are in a run's name
GROUPS = (*NAMED, "data", "optimizer")  # whose choices are its tags


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


def training_name_and_tags(cfg: DictConfig) -> tuple[str, list[str]]:
    """Return a training's name by its choices and its seed, and a tag for each choice.

    For example small_unet-flow-v-s0, and model=small_unet, schedule=flow, ...
    """
    choices = {group: choice_of(group, cfg[group]) for group in GROUPS}
    name = "-".join([*(choices[group] for group in NAMED), f"s{cfg.seed}"])
    return name, [f"{group}={choice}" for group, choice in choices.items()]


def choice_of(group: str, node: DictConfig) -> str:
    """Return the name of a group's choice, by its class; the class's own name, if no file has it."""
    node = node.get("source", node)
    return name_of_choice(group, node) or node.get("name") or str(node.get(TARGET)).rpartition(".")[2]
