"""What a batch of samples costs."""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from lit_diffusion.evaluate.result import Cost


def measure_cost(
    denoisers: Sequence[nn.Module], device: torch.device, n: int, sample: Callable[[], Any]
) -> Cost:
    """Count the network evaluations, and measure the time and memory, of sampling n images.

    Args:
        denoisers: what ``sample`` evaluates, unguided: a guided step is then two evaluations.
        device: where they are.
        n: images that ``sample()`` makes.
        sample: makes them.
    """
    evaluated = 0

    def count(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nonlocal evaluated
        evaluated += len(args[0])

    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    hooks = [denoiser.register_forward_hook(count) for denoiser in denoisers]
    begin = time.perf_counter()
    sample()
    if cuda:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - begin
    for hook in hooks:
        hook.remove()
    return Cost(
        nfe=evaluated / n,
        images_per_second=n / seconds,
        batch_size=n,
        device=torch.cuda.get_device_name(device) if cuda else f"{torch.get_num_threads()} CPU threads",
        peak_memory_of="batch" if cuda else "process",
        peak_memory_mib=(torch.cuda.max_memory_allocated(device) if cuda else peak_resident_bytes()) / 2**20,
    )


def peak_resident_bytes() -> int:
    """Return the most bytes that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
