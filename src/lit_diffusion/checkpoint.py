"""Reading checkpoints: one file holds weights, their average, and the whole config that made them."""

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from lit_diffusion.common.build import TARGET, build, refused
from lit_diffusion.common.errors import ConfigError, check_bytes
from lit_diffusion.common.shapes import image_shape
from lit_diffusion.common.stored import build_stored, check_plain
from lit_diffusion.common.weights import not_finite, read_weights
from lit_diffusion.denoiser import NetworkDenoiser
from lit_diffusion.predictions import Prediction
from lit_diffusion.schedules import Schedule

PATH_GROUPS = ("model", "schedule", "prediction")  # what a checkpoint's weights mean
UNREADABLE = (  # raised for a file that is none, or a damaged one
    RuntimeError, EOFError, OSError, LookupError, TypeError, ValueError, AttributeError,
    pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip
SHIPPED = {name: Path(__file__).parent / "trained" / f"{name}.safetensors" for name in ("mnist", "emoji")}
NETWORK = "denoiser.network."  # how the names of the network's weights begin in a checkpoint


def checkpoint_file(path: str | Path) -> Path:
    """Return the path of a checkpoint's file, or that of a model that ships, for its name."""
    return SHIPPED.get(str(path)) or Path(path)


def read_checkpoint(path: str | Path | None) -> dict[str, Any]:
    """Return the contents of a checkpoint, or of a .safetensors file exported from one, on the CPU.

    Args:
        path: of the file, or the name of a model that ships, as in ``SHIPPED``.

    Raises:
        ConfigError: no file is given, it is missing, damaged, or not a checkpoint of this project.
    """
    if not path:
        raise ConfigError("ckpt is missing: give ckpt=PATH, the path of a .ckpt file of a training run")
    if not isinstance(path, (str, Path)):
        raise ConfigError(f"ckpt is {path}: give the path of a .ckpt file of a training run")
    if "://" in str(path):
        raise ConfigError(f"ckpt is {path}: fetch the file, and give its path on this machine")
    path = checkpoint_file(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"ckpt {path} {problem}: give the path of a .ckpt file of a training run")
    try:
        checkpoint = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    except UNREADABLE:
        checkpoint = {}
    if not is_checkpoint(checkpoint):
        raise ConfigError(
            f"ckpt {path} is damaged, or not a checkpoint of lit_diffusion: choose another, such as the "
            "run's best.ckpt"
        )
    check_plain(checkpoint["hyper_parameters"], f"ckpt {path}")
    return {**checkpoint, "hyper_parameters": up_to_date(checkpoint["hyper_parameters"])}


def up_to_date(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored config with what earlier versions kept elsewhere in the groups times and weighting."""
    schedule = dict(config["schedule"])
    std, mean = schedule.pop("logit_std", None), schedule.pop("logit_mean", 0.0)
    module = dict(config["module"]) if isinstance(config.get("module"), Mapping) else {}
    gamma = module.pop("min_snr_gamma", None)
    times = {TARGET: "lit_diffusion.times.Uniform"}
    if std is not None:
        times = {TARGET: "lit_diffusion.times.LogitNormal", "mean": mean, "std": std}
    weighting = {TARGET: "lit_diffusion.weightings.Unweighted"}
    if gamma is not None:
        weighting = {TARGET: "lit_diffusion.weightings.MinSNR", "gamma": gamma}
    since = {
        "times": times,
        "weighting": weighting,
        "coupling": {TARGET: "lit_diffusion.couplings.Independent"},
    }
    return {**since, **config, "schedule": schedule, "module": module}


def read_pickle(path: Path) -> dict[str, Any]:
    """Return what a .ckpt file holds: tensors, numbers, texts, lists and dicts, and nothing that runs.

    Raises:
        RuntimeError: the file is damaged, or compressed, so that it might unpack to more than memory holds,
            or it has something before the archive, which torch would read in another format.
    """
    with path.open("rb") as begins:
        if begins.read(4) != b"PK\x03\x04":
            raise RuntimeError(f"{path}: no archive")
    with zipfile.ZipFile(path) as file:
        compressed = any(record.compress_type != zipfile.ZIP_STORED for record in file.infolist())
        if compressed or file.testzip():
            raise RuntimeError(f"{path}: compressed or damaged")
    return torch.load(path, map_location="cpu", weights_only=True)


def read_safetensors(path: Path) -> dict[str, Any]:
    """Return what an exported file holds, laid out as a checkpoint: weights, in float32, and config."""
    weights, metadata = read_weights(path)
    return {
        "hyper_parameters": metadata["hyper_parameters"],
        "state_dict": {f"{NETWORK}{name}": weight for name, weight in weights.items()},
        "callbacks": {},
    }


def is_checkpoint(contents: Any) -> bool:
    """Return whether the contents are laid out as a checkpoint of this project."""
    if not isinstance(contents, Mapping):
        return False
    config, weights = contents.get("hyper_parameters"), contents.get("state_dict")
    return (
        isinstance(config, Mapping)
        and all(isinstance(config.get(part), Mapping) for part in (*PATH_GROUPS, "data"))
        and has_shape(config["data"])
        and isinstance(weights, Mapping)
        and all(isinstance(weight, Tensor) for weight in weights.values())
        and isinstance(contents.get("callbacks"), Mapping)
    )


def has_shape(data: Mapping[str, Any]) -> bool:
    """Return whether a stored ``data`` config says what shape the images have."""
    try:
        return type(data["channels"]) is int and len(image_shape(data)) == 3
    except (KeyError, ConfigError):
        return False


def build_denoiser(cfg: DictConfig) -> NetworkDenoiser:
    """Return the denoiser that a config's model, schedule and prediction describe, with fresh weights.

    Raises:
        ConfigError: the parts don't fit each other, or this machine.
    """
    with torch.device("meta"):  # costs no memory
        network = build(cfg.model, "model")
    if not isinstance(network, nn.Module) or not isinstance(getattr(network, "num_classes", None), int):
        raise ConfigError(
            f"model is a {type(network).__name__}: it must be a torch.nn.Module with num_classes, 0 for none"
        )
    parameters = sum(p.numel() for p in network.parameters())
    check_bytes(f"training a network of {parameters:,} parameters", 16 * parameters)
    network, schedule, prediction = (build(cfg[part], part) for part in PATH_GROUPS)
    for part, built, kind in (("schedule", schedule, Schedule), ("prediction", prediction, Prediction)):
        if not isinstance(built, kind):
            raise ConfigError(f"{part} is a {type(built).__name__}, which is no {kind.__name__}")
    return NetworkDenoiser(network, schedule, prediction)


def load_denoiser(checkpoint: dict[str, Any], trust: Sequence[str] = ()) -> NetworkDenoiser:
    """Return the trained denoiser in eval mode, with the averaged weights where the run kept any.

    Args:
        checkpoint: what ``read_checkpoint`` returned.
        trust: full names of classes that may be built besides those that conf/ names.

    Raises:
        ConfigError: a class that isn't trusted, or weights that don't fit the network or aren't finite.
    """
    config, weights = checkpoint["hyper_parameters"], network_weights(checkpoint)
    try:
        with torch.device("meta"):  # costs no memory, whatever sizes the config has
            network = build_stored(config, "model", trust)
    except (RuntimeError, OverflowError) as error:
        raise refused("the checkpoint's model", error) from error
    check_weights(network, weights)
    denoiser = NetworkDenoiser(*(build_stored(config, part, trust) for part in PATH_GROUPS))
    denoiser.network.load_state_dict(weights)
    return denoiser.eval()


def network_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Return the network's weights, averaged where the run kept an average."""
    ema = checkpoint["callbacks"].get("ema")
    average = ema.get("average") if isinstance(ema, Mapping) else None
    weights = {**checkpoint["state_dict"], **(average if isinstance(average, Mapping) else {})}
    return {name.removeprefix(NETWORK): w for name, w in weights.items() if name.startswith(NETWORK)}


def check_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise ConfigError unless the weights are finite, and are those of a network.

    Args:
        network: of the config; it may be without memory, on torch's meta device.
        weights: by name.
    """
    expected = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    different = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if different:
        name = different[0]
        raise ConfigError(
            f"the checkpoint's weights are of another network than its config: {name} is "
            f"{found.get(name, 'missing')}, and in {type(network).__name__} "
            f"{expected.get(name, 'missing')}: choose another file"
        )
    if broken := not_finite(weights):
        raise ConfigError(
            f"the checkpoint's {broken} isn't finite, so that it can make no images: choose an earlier file"
        )
