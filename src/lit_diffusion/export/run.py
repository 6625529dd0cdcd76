"""Export: a checkpoint in, a file for other programs out."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lit_diffusion.checkpoint import load_denoiser, read_checkpoint
from lit_diffusion.common.configs import check_out
from lit_diffusion.common.errors import ConfigError, check_installed
from lit_diffusion.common.files import atomic_write, make_folder
from lit_diffusion.common.log import log
from lit_diffusion.common.shapes import image_shape
from lit_diffusion.common.stored import check_trust
from lit_diffusion.common.weights import DTYPES, write_weights
from lit_diffusion.denoiser import NetworkDenoiser
from lit_diffusion.loading import with_average

PACKAGES = {  # what each format is written with
    "safetensors": [],
    "onnx": ["onnx", "onnxscript"],
    "diffusers": ["diffusers"],
}


def main(cfg: DictConfig) -> None:
    """Export, and log the files written."""
    for path in export(cfg):
        log.info(path)


def export(cfg: DictConfig) -> list[Path]:
    """Write the checkpoint's network to ``cfg.out``, averaged weights where the run kept any.

    Returns:
        The files written: model.safetensors, model.onnx, or those of a diffusers folder.

    Raises:
        ConfigError: an unknown format, what the format needs, or a model that it can't express.
    """
    check_out(cfg)
    check_trust(cfg.trust)
    if str(cfg.format) not in PACKAGES:
        raise ConfigError(f"format is {cfg.format}: choose one of {', '.join(PACKAGES)}")
    if str(cfg.dtype) not in DTYPES:
        raise ConfigError(f"dtype is {cfg.dtype}: choose one of {', '.join(DTYPES)}")
    if cfg.dtype != "float32" and cfg.format != "safetensors":
        raise ConfigError(
            f"dtype is {cfg.dtype}, but format={cfg.format} is written in float32: leave dtype out"
        )
    check_installed(f"format={cfg.format} needs", PACKAGES[cfg.format], extra="export")
    checkpoint = read_checkpoint(cfg.ckpt)
    if cfg.ema is not None:
        checkpoint = with_average(checkpoint, cfg.ckpt, cfg.ema)
    denoiser, hyper_parameters = load_denoiser(checkpoint, cfg.trust), checkpoint["hyper_parameters"]
    out = make_folder(cfg.out)
    if cfg.format == "safetensors":
        return [save_safetensors(denoiser, hyper_parameters, cfg.dtype, out)]
    if cfg.format == "onnx":
        return [save_onnx(denoiser, hyper_parameters, out)]
    from lit_diffusion.interop.diffusers_folder import save_folder

    return save_folder(denoiser, hyper_parameters, out, cfg.trust)


def save_safetensors(
    denoiser: NetworkDenoiser, hyper_parameters: dict[str, Any], dtype: str, out: Path
) -> Path:
    """Write model.safetensors: the network's weights, with the hyper-parameters as JSON in its metadata.

    ``read_checkpoint`` reads it back.

    Raises:
        ConfigError: a weight is too large for the dtype.
    """
    path = out / "model.safetensors"
    write_weights(path, denoiser.network.state_dict(), {"hyper_parameters": hyper_parameters}, dtype)
    return path


def save_onnx(denoiser: NetworkDenoiser, hyper_parameters: dict[str, Any], out: Path) -> Path:
    """Write model.onnx: the network alone, for batches of any size, with the hyper-parameters as metadata.

    Its inputs are x_t (B, C, H, W), time_input (B,), which is what the schedule tells the network of the
    time, and for a network with labels y (B,) int64, the null label being num_classes, or for one that is
    conditioned by images y (B, condition_channels, H, W); its output is like x_t.
    """
    channels, *sides = image_shape(hyper_parameters["data"])
    inputs = {"x_t": torch.zeros(2, channels, *sides), "time_input": torch.zeros(2)}
    if denoiser.num_classes:
        inputs["y"] = torch.zeros(2, dtype=torch.int64)
    if denoiser.condition_channels:
        inputs["y"] = torch.zeros(2, denoiser.condition_channels, *sides)
    batch = torch.export.Dim("batch")
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they log every node
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            denoiser.network,
            kwargs=inputs,
            input_names=list(inputs),
            output_names=["output"],
            dynamic_shapes={name: {0: batch} for name in inputs},
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch exported nothing")
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces, with the paths of this machine
    program.model.metadata_props["hyper_parameters"] = json.dumps(hyper_parameters)
    path = out / "model.onnx"
    with atomic_write(path) as file:
        file.write(program.model_proto.SerializeToString())
    return path
