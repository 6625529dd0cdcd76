"""The precision in which a network runs."""

from contextlib import AbstractContextManager, nullcontext

import torch

from lit_diffusion.common.errors import ConfigError

FULL = "32-true"
MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def choose_precision(name: str, device: torch.device) -> str:
    """Return the precision of this name, of those in which a trained network runs.

    Args:
        name: 32-true, bf16-mixed, 16-mixed, or auto, the fastest.
        device: where it runs.

    Raises:
        ConfigError: another name.
    """
    if name == "auto":
        return fastest_precision(device)[0]
    if name != FULL and name not in MIXED:
        raise ConfigError(f"precision is {name}: choose {FULL}, auto, {' or '.join(MIXED)}")
    return name


def fastest_precision(device: torch.device) -> tuple[str, str]:
    """Return the fastest precision that training bears on the device, and why it is that one."""
    if multiplies_bfloat16(device):
        return "bf16-mixed", f"this {device.type.upper()} multiplies matrices of bfloat16"
    return FULL, f"this {device.type.upper()} has no instructions for matrices of bfloat16"


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions that multiply matrices of bfloat16.

    On a CPU they are AMX or AVX-512's own; docs/speed.md has what each gains. Without them bfloat16 was
    measured to be 14 times slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16"))


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Return a context in which networks run in this precision; 32-true changes nothing."""
    if precision == FULL:
        return nullcontext()
    return torch.autocast(device.type, MIXED[precision])
