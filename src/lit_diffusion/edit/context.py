"""What every edit works with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_whole_number
from lit_diffusion.common.rng import ImageNoise
from lit_diffusion.couplings import Independent, warn_of_coupling
from lit_diffusion.denoiser import Condition, Denoiser, Labelled
from lit_diffusion.samplers.base import Noise, Sampler
from lit_diffusion.samplers.generate import generate
from lit_diffusion.samplers.hooks import Trajectory
from lit_diffusion.schedules import Schedule


@dataclass
class EditContext:
    """A denoiser, a sampler and a seed, and the images to edit.

    Attributes:
        denoiser: guided, if the config has guidance.
        sampler: how to go from noise to image.
        shape: of an image, (C, H, W).
        seed: of all noise.
        device: where the denoiser is.
        inputs: loads the images to edit, (B, C, H, W) in [-1, 1].
        coupling: name of the class of the coupling that the network was trained with.
    """

    denoiser: Denoiser
    sampler: Sampler
    shape: tuple[int, int, int]
    seed: int
    device: torch.device
    inputs: Callable[[], Tensor]
    coupling: str = Independent.__name__

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def times(self) -> Tensor:
        """The sampler's grid, (steps + 1,)."""
        return self.sampler.times(self.schedule)

    def noise(self, n: int) -> ImageNoise:
        """Return the noise of images 0 to n - 1."""
        return ImageNoise(self.seed, range(n), self.shape, self.device)

    def warn_of_own_noise(self, use: str) -> None:
        """Warn of a use that noises images, or needs the score, unless training had independent noise."""
        warn_of_coupling(self.coupling, use, "its images may be wrong")

    def conditioned(self, condition: Condition, key: str) -> Labelled:
        """Return the denoiser with this condition, which a key of the config names.

        Raises:
            ConfigError: the model doesn't know it.
        """
        try:
            y = self.denoiser.encode(condition)
        except ConfigError as error:
            more = (
                "" if self.denoiser.conditional else ", or train with model.num_classes='${data.num_classes}'"
            )
            raise ConfigError(f"{key} is {condition}: {error}{more}") from None
        return Labelled(self.denoiser, y if y is None else y.to(self.device))

    def sample_from(self, x_t: Tensor, denoiser: Denoiser, noise: Noise, **options: Any) -> Tensor:
        """Sample from x_t on, with options of ``Sampler``; (B, C, H, W), on the CPU."""
        return self.sampler(denoiser, x_t.to(self.device), noise=noise, **options).cpu()

    def one_input(self) -> Tensor:
        """Load the one image to edit, (1, C, H, W).

        Raises:
            ConfigError: there are several.
        """
        x = self.inputs()
        if len(x) > 1:
            raise ConfigError(f"image names {len(x)} images, but this edit takes one: choose one")
        return x

    def trajectory(self, steps: int) -> Trajectory:
        """Return a hook that keeps so many estimates, evenly spread over the times from noise on."""
        check_whole_number("edit.steps", steps, least=1)
        visits = self.times[:-1]
        shown = torch.linspace(0, len(visits) - 1, min(steps, len(visits))).round().long()
        return Trajectory(visits, visits[shown].tolist())

    def sample(self, denoiser: Denoiser, n: int, steps: int) -> tuple[Tensor, Trajectory]:
        """Sample n images from noise, and keep ``steps`` of the estimates."""
        check_whole_number("edit.n", n, least=1)
        trajectory = self.trajectory(steps)
        x = generate(
            self.sampler, denoiser, range(n), self.shape, self.seed, device=self.device, after_step=trajectory
        )
        return x.cpu(), trajectory
