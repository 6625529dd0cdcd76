"""Averages of a network's weights along its training, of any length, made of a few that were kept.

The averages are those of Karras et al. 2024 (EDM2, section 3): at step t the weights of step s count in
proportion to s^gamma. An average's length is the standard deviation of this profile in shares of t: 0.05 is
one over about the last fifth of the training, however long that was.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_number
from lit_diffusion.common.weights import read_weights

LONGEST = 0.28  # of a power function that grows; all steps alike have 0.289


def exponent(length: float, key: str) -> float:
    """Return gamma of the average of this length (EDM2, algorithm 2).

    Args:
        length: standard deviation of the profile, in shares of the training.
        key: the config key that gives it, for errors.
    """
    check_number(key, length, least=0.001, most=LONGEST)
    return float(np.roots([1, 7, 16 - length**-2, 12 - length**-2]).real.max())


def kept_share(step: int, gamma: float) -> float:
    """Return the share of the average that stays at a step, counted from 1 on."""
    return (1 - 1 / step) ** (gamma + 1)


def products(
    steps: np.ndarray, gammas: np.ndarray, other_steps: np.ndarray, other_gammas: np.ndarray
) -> np.ndarray:
    """Return the integrals of the products of two lots of profiles, (N, M) (EDM2, algorithm 3).

    Args:
        steps, gammas: of the first, (N,): the profile of step t is (gamma + 1) s^gamma / t^(gamma + 1).
        other_steps, other_gammas: of the second, (M,).
    """
    t, g = steps[:, None].astype(np.float64), gammas[:, None]
    u, h = other_steps[None].astype(np.float64), other_gammas[None]
    ratio = (t / u) ** np.where(t < u, h, -g)
    return (g + 1) * (h + 1) * ratio / ((g + h + 1) * np.maximum(t, u))


def combination(steps: Sequence[int], gammas: Sequence[float], step: int, gamma: float) -> np.ndarray:
    """Return the weights (N,) with which kept averages make the one of another gamma, by least squares.

    Args:
        steps, gammas: of the kept averages, (N,).
        step, gamma: of the one to make.
    """
    t, g = np.array(steps), np.array(gammas, dtype=np.float64)
    wanted = products(t, g, np.array([step]), np.array([gamma]))[:, 0]
    return np.linalg.lstsq(products(t, g, t, g), wanted, rcond=None)[0]


class Kept(NamedTuple):
    """An average in a file.

    Attributes:
        path: of the file.
        number: of the average in it.
        step: at which it was written.
        gamma: its exponent.
    """

    path: Path
    number: int
    step: int
    gamma: float


def kept_in(folder: Path, step: int) -> list[Kept]:
    """Return the averages that a run kept up to a step, in their order."""
    return [
        Kept(path, number, int(path.stem), exponent(length, "lengths"))
        for path in sorted(folder.glob("*.safetensors"))
        if int(path.stem) <= step
        for number, length in enumerate(read_weights(path)[1]["lengths"])
    ]


def rebuilt(folder: Path, step: int, length: float) -> dict[str, Tensor]:
    """Return a network's average of this length at a step, from what a run kept (callbacks=power_ema).

    Args:
        folder: of the files that ``PowerEMA`` wrote, a run's ``averages``.
        step: of the training; files of later ones aren't looked at.
        length: in shares of the training.

    Raises:
        ConfigError: there are no such files, one is damaged, or no average can have this length.
    """
    gamma = exponent(length, "ema")
    total: dict[str, Tensor] = {}
    try:
        kept = kept_in(folder, step)
        if kept:
            shares = combination([a.step for a in kept], [a.gamma for a in kept], kept[-1].step, gamma)
            for share, average in zip(shares, kept, strict=True):
                for name, weight in read_weights(average.path)[0].items():
                    number, _, name = name.partition("/")
                    if number == str(average.number):
                        total[name] = total.get(name, 0) + float(share) * weight
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder} holds a file that is no average ({error}): delete it") from None
    if not total:
        raise ConfigError(
            f"ema is {length}, but {folder} has no averages up to step {step}: train with "
            "callbacks=power_ema, or leave ema out"
        )
    return total
