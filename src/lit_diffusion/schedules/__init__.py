"""Noise schedules: alpha(t) and sigma(t) of the Gaussian path x_t = alpha(t) x + sigma(t) eps."""

from lit_diffusion.schedules.base import Schedule
from lit_diffusion.schedules.continuous import Flow, SingleStep, Straight, VarianceExploding
from lit_diffusion.schedules.discrete import Cosine, DiscreteSchedule, Linear, Sigmoid, check_steps

__all__ = [
    "Cosine",
    "DiscreteSchedule",
    "Flow",
    "Linear",
    "Schedule",
    "Sigmoid",
    "SingleStep",
    "Straight",
    "VarianceExploding",
    "check_steps",
]
