"""Samplers: from noise to images along a grid of times."""

from lit_diffusion.samplers.ancestral import Ancestral
from lit_diffusion.samplers.base import AfterStep, Sampler, Visit
from lit_diffusion.samplers.ddim import DDIM
from lit_diffusion.samplers.dpmpp import DPMpp2M
from lit_diffusion.samplers.generate import generate
from lit_diffusion.samplers.heun import Heun
from lit_diffusion.samplers.hooks import Inpaint, Trajectory, chain
from lit_diffusion.samplers.inversion import inverted
from lit_diffusion.samplers.sde import SDE
from lit_diffusion.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "SDE",
    "AfterStep",
    "Ancestral",
    "DPMpp2M",
    "Heun",
    "Inpaint",
    "Sampler",
    "Trajectory",
    "UniPC",
    "Visit",
    "chain",
    "generate",
    "inverted",
]
