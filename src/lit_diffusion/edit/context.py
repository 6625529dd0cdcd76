"""What every edit works with."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_diffusion.common.errors import ConfigError, check_whole_number
from lit_diffusion.common.rng import ImageNoise
from lit_diffusion.denoiser import Labelled
from lit_diffusion.samplers.base import Sampler
from lit_diffusion.samplers.film import Film
from lit_diffusion.samplers.generate import generate
from lit_diffusion.schedules import Schedule

Asked = int | str | None  # a label, a prompt, or nothing


@dataclass
class Studio:
    """A denoiser, a sampler and a seed, and the images to edit.

    Attributes:
        denoiser: guided, if guidance is asked for.
        sampler: how to walk from noise to image.
        shape: of an image, (C, H, W).
        seed: of all noise.
        device: where the denoiser lives.
        inputs: loads the images to edit, (B, C, H, W) in [-1, 1].
    """

    denoiser: nn.Module
    sampler: Sampler
    shape: tuple[int, int, int]
    seed: int
    device: torch.device
    inputs: Callable[[], Tensor]

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def times(self) -> Tensor:
        """The sampler's grid, (steps + 1,)."""
        return self.sampler.times(self.schedule)

    def noise(self, n: int) -> ImageNoise:
        return ImageNoise(self.seed, range(n), self.shape, self.device)

    def asked_for(self, asked: Asked) -> Labelled:
        """The denoiser, with its condition."""
        y = self.denoiser.encode(asked)
        return Labelled(self.denoiser, y if y is None else y.to(self.device))

    def walk(self, denoiser: nn.Module, x_t: Tensor, noise: Callable[[], Tensor], **options) -> Tensor:
        """From x_t to images, (B, C, H, W), on the CPU."""
        return self.sampler(denoiser, x_t.to(self.device), noise=noise, **options).cpu()

    def one_input(self) -> Tensor:
        """The image to edit, (1, C, H, W)."""
        x = self.inputs()
        if len(x) > 1:
            raise ConfigError(f"image names {len(x)} images, but this edit takes one: choose one")
        return x

    def film(self, steps: int) -> Film:
        """A hook that keeps so many estimates, evenly spread over the way from noise."""
        check_whole_number("edit.steps", steps, least=1)
        visits = self.times[:-1]
        shown = torch.linspace(0, len(visits) - 1, min(steps, len(visits))).round().long()
        return Film(visits, visits[shown].tolist())

    def sample(self, denoiser: nn.Module, n: int, steps: int) -> tuple[Tensor, Film]:
        """n images from noise, and a film of how they came about."""
        check_whole_number("edit.n", n, least=1)
        film = self.film(steps)
        x = generate(
            self.sampler, denoiser, range(n), self.shape, self.seed, device=self.device, after_step=film
        )
        return x.cpu(), film
