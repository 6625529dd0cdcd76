"""Learning-rate schedules that torch lacks."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_diffusion.common.errors import ConfigError


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.05) -> LambdaLR:
    """Raise the rate linearly from 0 to the optimizer's, then lower it to 0 along half a cosine.

    Args:
        optimizer: whose rate to set.
        total_steps: optimizer steps of the whole run.
        warmup: share of them in which the rate rises, in [0, 1).
    """
    if not 0 <= warmup < 1:
        raise ConfigError(f"lr_scheduler.scheduler.warmup is {warmup:g}: choose a share from 0 to below 1")
    rising = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return (1 + math.cos(math.pi * (step - rising) / max(total_steps - rising, 1))) / 2

    return LambdaLR(optimizer, factor)


def exponential_decay(optimizer: Optimizer, total_steps: int, final: float = 0.1) -> LambdaLR:
    """Lower the rate to ``final`` times the optimizer's, by the factor final^(1/total_steps) each step.

    Args:
        optimizer: whose rate to set.
        total_steps: steps, or epochs, of the whole run.
        final: share of the rate left at its end, more than 0.
    """
    if final <= 0:
        raise ConfigError(f"lr_scheduler.scheduler.final is {final:g}: choose more than 0")
    return LambdaLR(optimizer, lambda step: final ** (step / total_steps))
