"""Guidance: further towards a condition, or away from a worse model, than a network's own estimate.

Each method has its settings, a ``Guidance``, and makes one estimate of two, in a ``Guided`` denoiser.
"""

from lit_diffusion.guidance.apg import APG
from lit_diffusion.guidance.autoguidance import AutoGuidance
from lit_diffusion.guidance.base import Guidance, Guided
from lit_diffusion.guidance.cfg_pp import CFGPlusPlus
from lit_diffusion.guidance.cfg_zero import CFGZero

__all__ = ["APG", "AutoGuidance", "CFGPlusPlus", "CFGZero", "Guidance", "Guided"]
