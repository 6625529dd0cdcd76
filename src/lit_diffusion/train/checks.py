"""What a training refuses before it starts."""

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from lit_diffusion.common.build import REFUSALS, refused
from lit_diffusion.common.configs import check_out
from lit_diffusion.common.errors import (
    ConfigError,
    check_text,
    check_whole_number,
    is_number,
)
from lit_diffusion.common.log import log
from lit_diffusion.conditions import Paired
from lit_diffusion.couplings import Independent, MinibatchOT, Semidiscrete
from lit_diffusion.denoiser import NetworkDenoiser
from lit_diffusion.samplers.base import Sampler
from lit_diffusion.train.module import LitDiffusion
from lit_diffusion.train.trainer_checks import check_trainer

GROUPS = (
    "model",
    "schedule",
    "prediction",
    "sampler",
    "data",
    "optimizer",
    "trainer",
    "module",
    "callbacks",
    "times",
    "weighting",
    "coupling",
)
LOGGED = r"(train|val)/loss|train/(lr|grad_norm)|(train|val)_t/.+|perf/images_per_second|eval/.+"  # by us


def check_values(cfg: DictConfig) -> None:
    """Raise ConfigError for a value that can't work, whatever the parts are."""
    check_out(cfg)
    check_text("optimized_metric", cfg.optimized_metric)
    check_whole_number("seed", cfg.seed, 0, 2**32 - 1)
    for group in GROUPS:
        if not isinstance(cfg.get(group), DictConfig):
            raise ConfigError(f"{group} is {cfg.get(group)}: choose {group}=NAME, or leave it as it was")
    if not isinstance(cfg.get("logger"), DictConfig):
        raise ConfigError(f"logger is {cfg.get('logger')}: choose logger=none for none, or logger=csv")
    check_metric("optimized_metric", cfg.optimized_metric, ours=is_ours(cfg))
    if str(cfg.optimized_metric).startswith("eval/") and not cfg.callbacks.get("evaluation"):
        raise ConfigError(
            f"optimized_metric is {cfg.optimized_metric}, which this run doesn't log: add "
            "callbacks=evaluation, or choose val/loss"
        )
    if cfg.lr_scheduler and "_target_" in cfg.lr_scheduler:
        raise ConfigError(
            "lr_scheduler names its class at the top: put the class under scheduler:, as "
            "conf/lr_scheduler/exponential.yaml does"
        )
    if cfg.lr_scheduler and cfg.lr_scheduler.get("interval") not in ("epoch", "step"):
        raise ConfigError(
            f"lr_scheduler.interval is {cfg.lr_scheduler.get('interval')}: choose epoch or step"
        )
    for key in ("channels", "image_size"):
        if key in cfg.model and cfg.model[key] != cfg.data[key]:
            raise ConfigError(
                f"model.{key} is {cfg.model[key]}, but data.{key} is {cfg.data[key]}: leave "
                f"model.{key} as it was"
            )
    if cfg.lr_scheduler:
        check_whole_number("lr_scheduler.frequency", cfg.lr_scheduler.get("frequency", 1), least=1)
    for key, node in (
        ("optimizer", cfg.optimizer),
        ("lr_scheduler.scheduler", (cfg.lr_scheduler or {}).get("scheduler")),
    ):
        if isinstance(node, DictConfig) and node.get("_partial_") is not True:
            raise ConfigError(f"{key}._partial_ is {node.get('_partial_')}: add _partial_: true to its file")
    check_trainer(cfg.trainer)


def is_ours(cfg: DictConfig) -> bool:
    """Return whether the module and the callbacks are this project's or Lightning's, and no user's own."""
    parts = [cfg.module, *filter(None, cfg.callbacks.values())]
    names = [str(part.get("_target_")) for part in parts if isinstance(part, DictConfig)]
    return all(name.startswith(("lit_diffusion.", "lightning.")) for name in names)


def check_metric(key: str, name: object, validates: bool = True, ours: bool = False) -> None:
    """Raise ConfigError unless it is the name of a metric that a run may log.

    Args:
        key: where the name stands.
        name: the name.
        validates: whether the run has validation at all.
        ours: whether nothing of the user's own logs metrics too.
    """
    if str(name).startswith("val") and not validates:
        raise ConfigError(
            f"{key} is {name}, but trainer.limit_val_batches is 0: choose another metric, or leave "
            f"{key.rpartition('.')[0]} out"
        )
    known = LOGGED if ours else r"(train|val|train_t|val_t|eval|perf)/.+"
    if not re.fullmatch(known, str(name)):
        raise ConfigError(
            f"{key} is {name}, which isn't logged: choose val/loss, or another metric of the run's "
            "metrics.csv"
        )


def check_labels(known: int, given: int) -> None:
    """Raise ConfigError unless the model knows no labels or all that the data have, and no others."""
    if known not in (0, given):
        raise ConfigError(
            f"model.num_classes is {known}, but the data have {given} classes: choose {given}, or 0 for a "
            "model without labels"
        )


def check_augment(module: LitDiffusion) -> None:
    """Raise ConfigError unless the network is told of the augmentation what it is made for."""
    told, wanted = getattr(module.denoiser.network, "augment_width", 0), getattr(module.augment, "width", 0)
    if told != wanted and module.augment is None:
        raise ConfigError(
            f"model.augment_width is {told}, but there is no augment to tell of: choose 0, or augment=edm"
        )
    if told != wanted:
        raise ConfigError(
            f"model.augment_width is {told}, but augment {type(module.augment).__name__} tells the network "
            f"{wanted} numbers: choose model.augment_width={wanted}, or another model or augment"
        )
    if module.augment is not None and isinstance(module.condition, Paired):
        raise ConfigError(
            f"augment is {type(module.augment).__name__}, but condition is Paired, whose pairs would no "
            "longer fit: leave augment out"
        )


def check_coupling(module: LitDiffusion) -> None:
    """Raise ConfigError for a coupling that can't go with the labels, the augmentation or the condition."""
    coupling, num_classes = module.coupling, module.denoiser.num_classes
    if not isinstance(coupling, Independent) and module.denoiser.condition_channels:
        raise ConfigError(
            f"coupling is {type(coupling).__name__}, but images condition the network, and each would "
            "have noise of its own in training, but any in sampling: choose coupling=independent"
        )
    if coupling.by_label and not num_classes:
        raise ConfigError(
            f"coupling is {type(coupling).__name__}, but the network is told no labels: choose "
            "coupling=minibatch_ot, or a model with labels, model.num_classes='${data.num_classes}'"
        )
    if isinstance(coupling, (MinibatchOT, Semidiscrete)) and num_classes:
        log.warning(
            f"coupling is {type(coupling).__name__}, by which each label has noise of its own in training, "
            "but any in sampling: coupling=class_ot has none of it"
        )
    if isinstance(coupling, Semidiscrete) and module.augment is not None:
        raise ConfigError(
            "coupling is Semidiscrete, which compares noise with the images as they are, but there is an "
            "augment: leave one of them out"
        )


def check_weighting(module: LitDiffusion) -> None:
    """Raise ConfigError for a weighting that weighs an end of the path 0, or infinitely."""
    schedule, prediction = module.denoiser.schedule, module.denoiser.prediction
    t = schedule.at_share(torch.tensor([0.0, 1.0]))
    dx_weight = prediction.dx_weight(schedule.alpha(t), schedule.sigma(t))
    with torch.no_grad():
        weights = module.weighting(torch.ones_like(t), schedule.log_snr(t), dx_weight)
    if not (weights.isfinite() & (weights > 0)).all():
        raise ConfigError(
            f"weighting {type(module.weighting).__name__} weighs the ends of schedule "
            f"{type(schedule).__name__} {weights[0]:.3g} and {weights[1]:.3g}: choose weighting=none, or "
            "another schedule"
        )


def check_network(denoiser: NetworkDenoiser, shape: tuple[int, int, int]) -> None:
    """Raise ConfigError unless the network takes what it will be given, and returns what is wanted of it.

    Args:
        denoiser: around the network, which is evaluated once, on an image of zeros without a condition.
        shape: of an image, (C, H, W).
    """
    time_input = denoiser.schedule.time_input(torch.full((1,), denoiser.schedule.t_max))
    if wrong := trial(denoiser, lambda x, y: denoiser.network(x, time_input, y), shape):
        raise ConfigError(
            f"model {type(denoiser.network).__name__} can't be trained: {wrong}; its forward(x_t, "
            "time_input, y) must return a tensor like x_t, with the null label, num_classes, too"
        )


def check_sampler(sampler: Sampler, denoiser: NetworkDenoiser, shape: tuple[int, int, int]) -> None:
    """Raise ConfigError if the sampler can't work with the denoiser, or can't take its first step.

    Args:
        sampler: the sampler.
        denoiser: around the network, which is evaluated on an image of zeros without a condition.
        shape: of an image, (C, H, W).
    """
    sampler.check(denoiser)
    times = sampler.times(denoiser.schedule)[:2]
    if wrong := trial(denoiser, lambda x, y: sampler(denoiser, x, y, times=times), shape):
        raise ConfigError(
            f"sampler {type(sampler).__name__} can't work: {wrong}; its step(x_t, t, s, history, denoiser, "
            "noise) must return a tensor like x_t"
        )


def trial(
    denoiser: NetworkDenoiser,
    function: Callable[[Tensor, Tensor | None], Any],
    shape: tuple[int, int, int],
) -> str | None:
    """Return what is wrong with a function that is to make images of images; None for nothing.

    Args:
        denoiser: whose network it evaluates; nothing of it changes.
        function: of x (1, C, H, W), zeros, and the null label or an image of zeros, None for a model without
            conditions.
        shape: of an image, (C, H, W).
    """
    network, x = denoiser.network, torch.zeros(1, *shape)
    y = torch.full((1,), denoiser.num_classes) if denoiser.num_classes else None
    if denoiser.condition_channels:
        y = torch.zeros(1, denoiser.condition_channels, *shape[1:])
    training = network.training
    try:
        network.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output = function(x, y)
    except ConfigError:
        raise
    except (*REFUSALS, RuntimeError, IndexError) as error:
        return " ".join(str(error).split())
    finally:
        network.train(training)
    if not isinstance(output, Tensor):
        return f"it returns a {type(output).__name__}"
    return f"it makes {tuple(output.shape)} of {tuple(x.shape)}" if output.shape != x.shape else None


def check_optimizer(module: LitDiffusion) -> torch.optim.Optimizer:
    """Return the module's optimizer; ConfigError if it refuses its values."""
    try:
        return module.optimizer(module.parameters())
    except ConfigError:
        raise
    except (*REFUSALS, RuntimeError) as error:
        raise refused("optimizer", error) from error


def check_lr_scheduler(module: LitDiffusion, optimizer: torch.optim.Optimizer) -> None:
    """Raise ConfigError if the learning-rate schedule refuses its values, or gives rates that can't work."""
    try:
        scheduler = module.build_scheduler(optimizer, total_steps=100)
    except ConfigError:
        raise
    except (*REFUSALS, RuntimeError) as error:
        raise refused("lr_scheduler.scheduler", error) from error
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        monitor = (module.lr_scheduler or {}).get("monitor")
        if monitor is None:
            raise ConfigError("lr_scheduler.monitor is missing: give +lr_scheduler.monitor=val/loss")
        check_metric("lr_scheduler.monitor", monitor)
        return
    if scheduler is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a step that the optimizer hasn't taken
        try:
            scheduler.step()
        except REFUSALS as error:
            raise refused("lr_scheduler.scheduler", error) from error
    rates: Sequence[float] = scheduler.get_last_lr()
    if not all(is_number(float(rate)) and rate >= 0 for rate in rates):
        raise ConfigError(
            f"lr_scheduler gives a learning rate of {rates[0]} after a step: choose values that "
            "keep it at 0 or more"
        )
