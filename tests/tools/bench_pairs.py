"""Two sides of a bench that take turns, and the row that they come to."""

import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from omegaconf import DictConfig
from torch import Tensor

from lit_diffusion.common import rng
from lit_diffusion.common.compose import composed
from lit_diffusion.common.precision import autocast
from lit_diffusion.train.module import LitDiffusion
from lit_diffusion.train.run import build_module

BATCH = 64


def row(claim: str, ours: list[float], other: list[float], unit: str = "ms") -> None:
    """Print a row; the first pair has warmed up."""
    ours, other = ours[1:], other[1:]
    ratios = [b / a for a, b in zip(ours, other, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    scale = 1e3 if unit == "ms" else 1
    a, b = (f"{statistics.median(times) * scale:.2f} {unit}" for times in (ours, other))
    print(f"| {claim} | {a} | {b} | {middle:.3g} ({low:.3g} to {high:.3g}) |", flush=True)


def in_turn(ours: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[list, list]:
    """Return the seconds that each took, so many times, in turn."""
    pairs = [(seconds(ours), seconds(other)) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def seconds(work: Callable[[], object]) -> float:
    """Return how long the work takes, until a GPU is done with it."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def config(*overrides: str) -> DictConfig:
    return composed("train", [f"out={tempfile.mkdtemp()}", f"data.batch_size={BATCH}", *overrides])


class Step:
    """A training step of one of our networks, of a batch that is there, without Lightning."""

    def __init__(self, device: torch.device, *overrides: str, precision: str = "32-true", batch: int = BATCH):
        self.module = build_module(config(*overrides)).to(device)
        self.optimizer = self.module.optimizer(self.module.parameters())
        self.precision = precision
        self.x = torch.rand(batch, 1, 28, 28, device=device) * 2 - 1
        self.number = 0

    def __call__(self) -> None:
        self.number += 1
        bare_step(self.module, self.optimizer, self.x, self.number, self.precision)


def bare_step(
    module: LitDiffusion,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    number: int,
    precision: str = "32-true",
    clip: float | None = None,
) -> None:
    """What a loop without Lightning does."""
    generator = rng.generator(0, number, device=x.device)
    t = module.times.times(module.denoiser.schedule, len(x), generator)
    with autocast(precision, x.device):
        loss = module.losses(x, None, t, torch.randn(x.shape, generator=generator, device=x.device)).mean()
    optimizer.zero_grad()
    loss.backward()
    if clip:
        torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimizer.step()
