"""From a config to what sampling and editing work with: a denoiser, its sampler, its guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lit_diffusion.averages import rebuilt
from lit_diffusion.checkpoint import NETWORK, checkpoint_file, load_denoiser, read_checkpoint
from lit_diffusion.combinators import Rescheduled
from lit_diffusion.common.build import build
from lit_diffusion.common.configs import plain
from lit_diffusion.common.device import choose_device
from lit_diffusion.common.errors import ConfigError, check_installed, check_text
from lit_diffusion.common.files import sha256_of
from lit_diffusion.common.images import load_picture
from lit_diffusion.common.log import log
from lit_diffusion.common.precision import FULL, choose_precision
from lit_diffusion.common.shapes import image_shape
from lit_diffusion.common.stored import build_stored, check_trust
from lit_diffusion.conditions import ImageCondition, check_condition
from lit_diffusion.couplings import Independent, warn_of_fresh_noise
from lit_diffusion.denoiser import Denoiser, NetworkDenoiser
from lit_diffusion.guidance import AutoGuidance, Guidance
from lit_diffusion.samplers.ancestral import Ancestral
from lit_diffusion.samplers.base import AfterStep, Sampler
from lit_diffusion.samplers.generate import generate
from lit_diffusion.samplers.hooks import chain

if TYPE_CHECKING:
    from lit_diffusion.interop.pretrained import Upscaler


@dataclass(frozen=True)
class Loaded:
    """A trained denoiser, and what comes with it.

    Attributes:
        unguided: the denoiser, in eval mode, on its device.
        guidance: the config's, or that of the run that trained it.
        sampler: the config's, or the one of the run that trained it, with the config's number of steps.
        shape: of an image, (C, H, W).
        device: where the denoiser is.
        identity: tells one set of weights from another.
        config: what it was trained with; None for a pretrained one.
        upscaler: makes its images larger; None for none.
        condition: makes the images that condition it; None where none do.
        worse: the worse model of autoguidance; None for none.

    Raises:
        ConfigError: the denoiser can't be guided like this, or the sampler can't work with it.
    """

    unguided: Denoiser
    guidance: Guidance
    sampler: Sampler
    shape: tuple[int, int, int]
    device: torch.device
    identity: str
    config: DictConfig | None = None
    upscaler: Upscaler | None = None
    condition: ImageCondition | None = None
    worse: Denoiser | None = None

    def __post_init__(self) -> None:
        self.sampler.check(self.denoiser)

    @cached_property
    def denoiser(self) -> Denoiser:
        """The denoiser, guided."""
        return self.guidance.applied(self.unguided, self.worse)

    @property
    def coupling(self) -> str:
        """The name of the class of the coupling that it was trained with."""
        if self.config is None:
            return Independent.__name__
        target = OmegaConf.select(self.config, "coupling._target_", default=Independent.__name__)
        return str(target).rpartition(".")[2]

    def picture(self, path: str, shape: tuple[int, int, int]) -> Tensor:
        """Load a picture file as an image (1, C, H, W) in [-1, 1], fitted as the training images were."""
        source = None if self.config is None else plain(self.config.data).get("source")
        known = source if isinstance(source, Mapping) else {}
        rules = {key: known[key] for key in ("background", "resize") if isinstance(known.get(key), str)}
        return load_picture(path, shape, **rules)

    def sample(
        self,
        indices: Sequence[int],
        seed: int,
        y: Tensor | None,
        after_step: AfterStep | None = None,
        count: AfterStep | None = None,
    ) -> Tensor:
        """Sample the images of these numbers, (B, C, H, W).

        Args:
            indices: their numbers.
            seed: of the noise.
            y: conditions (K, ...), of which image k has the one at k mod K; None for none.
            after_step: hook after each step from noise.
            count: hook after each step, those of an upscaler too.
        """
        y = None if y is None else y[torch.tensor(indices) % len(y)].to(self.device)
        hook = chain(after_step, count)
        x = generate(self.sampler, self.denoiser, indices, self.shape, seed, y, self.device, hook)
        if self.upscaler is None:
            return x
        if y is None:
            raise ValueError("an upscaler needs the text embeddings y")
        return self.upscaler(x, indices, seed, y, self.denoiser.null(y[:1]), after_step=count)


def load(cfg: DictConfig) -> Loaded:
    """Load what ``cfg.ckpt`` holds, or the pipeline in ``cfg.pretrained``, or the MNIST model that ships.

    Raises:
        ConfigError: a checkpoint, pipeline, sampler, device or guidance that can't work.
    """
    check_trust(cfg.trust)
    if cfg.get("pretrained") is not None:
        return load_pretrained(cfg)
    if cfg.negative_prompt:
        raise ConfigError(
            f"negative_prompt is {cfg.negative_prompt!r}, but the model of a checkpoint takes no prompts: "
            "leave it out"
        )
    path = cfg.ckpt or "mnist"
    checkpoint, ema = read_checkpoint(path), cfg.get("ema")
    if ema is not None:
        checkpoint = with_average(checkpoint, path, ema)
    config = OmegaConf.create(checkpoint["hyper_parameters"])
    device = choose_device(cfg.device)
    denoiser = load_denoiser(checkpoint, cfg.trust).to(device)
    denoiser.precision = choose_precision(cfg.precision, device)
    shape = image_shape(config.data)
    condition = build_stored(config, "condition", cfg.trust) if config.get("condition") else None
    check_condition(condition, denoiser.condition_channels, shape)
    sampler = build_sampler(cfg, config)
    guidance, worse = choose_guidance(cfg, config), None
    if denoiser.conditional and isinstance(trained := plain(config.get("module")), Mapping):
        guidance.check_dropout(trained.get("label_dropout"))
    identity = sha256_of(checkpoint_file(path)) + ("" if ema is None else f", average {ema}")
    if isinstance(guidance, AutoGuidance) and guidance.bad is not None:
        worse = load_worse(guidance, denoiser, config, cfg.trust)
        identity = f"{identity}, guided away from {sha256_of(checkpoint_file(guidance.bad))}"
    loaded = Loaded(
        denoiser,
        guidance,
        sampler,
        shape,
        device,
        identity,
        config,
        condition=condition,
        worse=worse,
    )
    if sampler.stochastic:
        warn_of_fresh_noise(loaded.coupling)
    return loaded


def with_average(
    checkpoint: dict[str, Any], path: str, length: float, step: int | None = None
) -> dict[str, Any]:
    """Return a checkpoint whose average is that of another length, or step, rebuilt of what its run kept.

    Raises:
        ConfigError: the run kept none.
    """
    step = checkpoint.get("global_step", 0) if step is None else step
    average = rebuilt(checkpoint_file(path).resolve().parent.parent / "averages", step, length)
    named = {f"{NETWORK}{name}": weight for name, weight in average.items()}
    return {**checkpoint, "callbacks": {"ema": {"average": named}}}


def load_worse(
    guidance: AutoGuidance, better: NetworkDenoiser, config: DictConfig, trust: Sequence[str]
) -> Denoiser:
    """Return the worse model of autoguidance, on the path of a better one.

    Args:
        guidance: says where it is.
        better: the model that is guided.
        config: what that was trained with.
        trust: as in ``load_denoiser``.

    Raises:
        ConfigError: it makes images of another shape, or takes other conditions.
    """
    check_text("guidance.bad", guidance.bad)
    path = str(guidance.bad)
    checkpoint = read_checkpoint(path)
    if guidance.bad_ema is not None:
        checkpoint = with_average(checkpoint, path, guidance.bad_ema, guidance.bad_step)
    worse = load_denoiser(checkpoint, trust).to(next(better.parameters()).device)
    worse.precision = better.precision
    for key in ("num_classes", "condition_channels"):
        if getattr(worse, key) != getattr(better, key):
            raise ConfigError(
                f"guidance.bad is {path}, a model with {key} {getattr(worse, key)}, but the one to guide has "
                f"{getattr(better, key)}: choose one that takes the same conditions"
            )
    own = OmegaConf.create(checkpoint["hyper_parameters"])
    if image_shape(own.data) != image_shape(config.data) or own.get("condition") != config.get("condition"):
        raise ConfigError(
            f"guidance.bad is {path}, a model of other images or conditions than the one to guide: choose "
            "one of the same"
        )
    return Rescheduled(worse, better.schedule)


def load_pretrained(cfg: DictConfig) -> Loaded:
    """Load the pipeline of diffusers that ``cfg.pretrained`` names."""
    if cfg.ckpt is not None:
        raise ConfigError(f"ckpt {cfg.ckpt} and a pretrained model are given: leave one out")
    if OmegaConf.is_missing(cfg.pretrained, "path"):
        raise ConfigError(
            "pretrained.path is missing: give pretrained.path=FOLDER, or OWNER/NAME of a model of the hub"
        )
    check_text("pretrained.path", cfg.pretrained.path)
    if cfg.precision != FULL:
        raise ConfigError(
            f"precision is {cfg.precision}, but a pretrained model runs in pretrained.dtype: leave it out"
        )
    if isinstance(choose_guidance(cfg, OmegaConf.create()), AutoGuidance):
        raise ConfigError(
            "guidance is autoguidance, but a pretrained model has no worse one here: choose guidance=cfg"
        )
    check_installed("a pretrained model needs", ["diffusers", "transformers"], extra="pretrained")
    from lit_diffusion.interop.pretrained import Pretrained, Upscaler, load_pipeline

    device = choose_device(cfg.device)
    options = plain(cfg.pretrained)
    second, own = options.pop("upscaler"), OmegaConf.create({"sampler": options.pop("sampler")})
    denoiser = Pretrained(
        load_pipeline(**options, device=device, trust=cfg.trust), cfg.negative_prompt
    ).eval()
    sampler = build_sampler(cfg, own)
    if denoiser.learns_variance and isinstance(sampler, Ancestral) and sampler.variance != "learned":
        log.warning("this model learnt the variance of its steps: sampler=ancestral_learned uses it")
    upscaler = None
    if second is not None:
        if not denoiser.conditional:
            raise ConfigError(
                f"pretrained.upscaler is given, but {options['path']} takes no prompts: leave it out"
            )
        second_sampler = build(second.pop("sampler"), "pretrained.upscaler.sampler")
        guidance, noise_level = Guidance.from_config(second.pop("guidance")), second.pop("noise_level")
        pipeline = load_pipeline(**second, device=device, trust=cfg.trust)
        upscaler = Upscaler(denoiser.pipeline, pipeline, second_sampler, guidance, noise_level)
    return Loaded(
        denoiser,
        choose_guidance(cfg, own),
        sampler,
        denoiser.shape,
        device,
        f"{options['path']}, {options['dtype']}, {cfg.pretrained.upscaler}",
        upscaler=upscaler,
    )


def choose_guidance(cfg: DictConfig, run_config: DictConfig) -> Guidance:
    """Return the guidance of the run that trained the model, with what the config sets of it."""
    return Guidance.from_config(cfg.guidance, own=run_config.get("guidance"))


def build_sampler(cfg: DictConfig, run_config: DictConfig) -> Sampler:
    """Return the config's sampler, or that of the run that trained the model, with the config's steps."""
    own, steps = cfg.get("sampler"), {} if cfg.steps is None else {"steps": cfg.steps}
    if own is not None and "_target_" not in own:
        raise ConfigError(f"sampler is {plain(own)}, which names none: add sampler=NAME, or give steps=3")
    if own is not None:
        both = OmegaConf.create({**run_config, "sampler": own})  # its steps may be the schedule's
        return build({**plain(both)["sampler"], **steps}, "sampler")
    if run_config.get("sampler") is None:
        raise ConfigError("sampler is missing: choose one, such as sampler=ddim")
    return build_stored({"sampler": {**plain(run_config)["sampler"], **steps}}, "sampler", cfg.trust)
