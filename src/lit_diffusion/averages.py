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
from lit_diffusion.common.log import log
from lit_diffusion.common.weights import read_metadata, read_weights

LONGEST = 0.28  # of a power function that grows; all steps alike have 0.289
MOST_LACKING = 0.05  # of a profile that is made of others


class Kept(NamedTuple):
    """A file of averages that a run kept: its place, its step, and the exponents of its averages."""

    path: Path
    step: int
    gammas: list[float]


def exponent(length: float, key: str) -> float:
    """Return gamma of the average of this length (EDM2, equation 126 and algorithm 2).

    Args:
        length: standard deviation of the profile, in shares of the training.
        key: the config key that gives it, for errors.
    """
    check_number(key, length, least=0.001, most=LONGEST)
    return float(np.roots([1, 7, 16 - length**-2, 12 - length**-2]).real.max())


def kept_share(step: int, gamma: float) -> float:
    """Return the share of the average that stays at a step, counted from 1 on (EDM2, equation 127)."""
    return (1 - 1 / step) ** (gamma + 1)


def products(
    steps: np.ndarray, gammas: np.ndarray, other_steps: np.ndarray, other_gammas: np.ndarray
) -> np.ndarray:
    """Return the integrals of the products of two sets of profiles, (N, M) (EDM2, equation 151).

    Args:
        steps, gammas: of the first, (N,): the profile of step t is (gamma + 1) s^gamma / t^(gamma + 1).
        other_steps, other_gammas: of the second, (M,).
    """
    t, g = steps[:, None].astype(np.float64), gammas[:, None]
    u, h = other_steps[None].astype(np.float64), other_gammas[None]
    ratio = (t / u) ** np.where(t < u, h, -g)
    return (g + 1) * (h + 1) * ratio / ((g + h + 1) * np.maximum(t, u))


def combination(
    steps: Sequence[int], gammas: Sequence[float], step: int, gamma: float
) -> tuple[np.ndarray, float]:
    """Return the weights (N,) with which kept averages make the one of another gamma, by least squares.

    EDM2's algorithm 3; as in its authors' code, the weights are then made to sum to 1, so that what never
    changed stays as it is.

    Args:
        steps, gammas: of the kept averages, (N,).
        step, gamma: of the one to make.

    Returns:
        The weights, and the length of what their profile lacks, in shares of the wanted one's.
    """
    t, g = np.array(steps), np.array(gammas, dtype=np.float64)
    u, h = np.array([step]), np.array([gamma])
    known, wanted = products(t, g, t, g), products(t, g, u, h)[:, 0]
    shares = np.linalg.lstsq(known, wanted, rcond=None)[0]
    shares /= shares.sum()
    whole = products(u, h, u, h)[0, 0]
    lacking = (whole - 2 * shares @ wanted + shares @ known @ shares) / whole
    return shares, float(max(lacking, 0) ** 0.5)


def rebuilt(folder: Path, step: int, length: float) -> dict[str, Tensor]:
    """Return a network's average of this length, from what a run kept (callbacks=power_ema).

    Args:
        folder: of the files that ``PowerEMA`` wrote, a run's ``averages``.
        step: of the training; the average is that of the last file up to it.
        length: in shares of the training.

    Raises:
        ConfigError: there are no such files, one is damaged, or they are too few for this length.
    """
    gamma = exponent(length, "ema")
    kept = [kept_in(path) for path in sorted(folder.glob("*.safetensors"))]
    kept = [file for file in kept if file.step <= step]
    if not kept:
        raise ConfigError(
            f"ema is {length}, but {folder} has no averages up to step {step}: give the checkpoint of a run "
            "with callbacks=power_ema, or leave ema out"
        )
    if kept[-1].step < step:
        log.info(
            f"the average of length {length} is that of step {kept[-1].step:,}, the last that was kept up to "
            f"step {step:,}"
        )
    steps = [file.step for file in kept for _ in file.gammas]
    shares, lacking = combination(steps, [g for file in kept for g in file.gammas], kept[-1].step, gamma)
    if lacking > MOST_LACKING:
        raise ConfigError(
            f"ema is {length}, which the {len(kept)} files in {folder} make only to {lacking:.0%}: choose a "
            "length nearer to those that were kept, or train with a smaller "
            "callbacks.power_ema.every_n_train_steps"
        )
    total: dict[str, Tensor] = {}
    left = iter(shares.tolist())
    for file in kept:
        add_averages(total, file, [next(left) for _ in file.gammas])
    return total


def kept_in(path: Path) -> Kept:
    """Return what a file of ``PowerEMA`` holds; ConfigError if it is no such file."""
    try:
        gammas = [exponent(length, "lengths") for length in read_metadata(path)["lengths"]]
        return Kept(path, int(path.stem), gammas)
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is no file of averages ({error}): delete it") from None


def add_averages(total: dict[str, Tensor], file: Kept, shares: Sequence[float]) -> None:
    """Add a file's averages, whose weights are named NUMBER/NAME, times their shares, to a total by name."""
    try:
        for name, weight in read_weights(file.path)[0].items():
            number, _, name = name.partition("/")
            total[name] = total.get(name, 0) + shares[int(number)] * weight
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{file.path} is no file of averages ({error}): delete it") from None
