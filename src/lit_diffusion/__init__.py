"""lit_diffusion: diffusion and flow-matching models on small images.

    from lit_diffusion import DDIM, Flow, Velocity, generate

The names below are imported when they are first used, so that command lines start quickly.
"""

from importlib import import_module

_ROOMS = {
    "checkpoint": ("build_denoiser", "load_denoiser", "read_checkpoint"),
    "combinators": ("Anagram", "Blend", "Hybrid", "Rescheduled", "Restored"),
    "conditions": ("ImageCondition", "LowResolution", "Paired"),
    "couplings": ("ClassOT", "Coupling", "Independent", "MinibatchOT", "Semidiscrete"),
    "data": ("Emoji", "FashionMnist", "Folder", "ImageDataModule", "Mnist", "Npz"),
    "denoiser": ("Denoiser", "Labelled", "NetworkDenoiser"),
    "guidance": ("APG", "AutoGuidance", "CFGPlusPlus", "CFGZero", "Guidance", "Guided"),
    "models": ("AttnUNet", "ConvNeXtUNet", "DiT", "FCUNet", "SmallUNet"),
    "predictions": ("Edm", "Eps", "Estimate", "Prediction", "V", "Velocity", "X"),
    "samplers": (
        "Ancestral",
        "DDIM",
        "DPMpp2M",
        "Heun",
        "Inpaint",
        "SDE",
        "Sampler",
        "Trajectory",
        "UniPC",
        "chain",
        "generate",
        "inverted",
    ),
    "schedules": ("Cosine", "Flow", "Linear", "Schedule", "Sigmoid", "SingleStep", "VarianceExploding"),
    "times": ("Importance", "LogitNormal", "LogNormal", "Times", "Uniform"),
    "weightings": (
        "EdmWeighting",
        "Learned",
        "MinSNR",
        "P2",
        "SigmoidWeighting",
        "SoftMinSNR",
        "Unweighted",
        "VelocityWeighting",
        "Weighting",
    ),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> object:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
