"""Damaged files: whatever their bytes, a reader returns what it read, or refuses in a sentence."""

import dataclasses
import io
import json
import os
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY
from digits import Digits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from lit_diffusion.checkpoint import load_denoiser, read_checkpoint
from lit_diffusion.common.compose import composed
from lit_diffusion.common.configs import plain
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.images import load_picture
from lit_diffusion.common.weights import read_weights, write_weights
from lit_diffusion.evaluate.images import read_samples
from lit_diffusion.evaluate.result import Result
from lit_diffusion.features.network import OURS, load_features
from lit_diffusion.figures.curves import read_metrics
from lit_diffusion.train.run import build_module

FUZZ = settings(
    max_examples=int(os.environ.get("EXAMPLES", 15)),
    derandomize="EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[*HealthCheck],
)


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """Draw the bytes of a file that was cut, overwritten, or had parts repeated, removed or inserted."""
    data = bytearray(whole)
    # A file's beginning and its end have what says how to read the rest.
    near = st.integers(0, min(600, len(data)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.one_of(st.integers(0, len(data)), near, near.map(lambda n: len(data) - n)))
        at, length = max(at, 0), draw(st.integers(0, 40))
        new = draw(st.sampled_from([b"", bytes(data[at : at + length]) * 2, None]))
        if new is None:
            new = draw(st.binary(max_size=40))
        data[at : at + length] = new
        if draw(st.integers(0, 9)) == 0:
            del data[at:]
    return bytes(data)


@st.composite
def altered(draw, content: object) -> object:
    """Draw what was read from JSON, with a part of it replaced by something else."""
    if isinstance(content, dict) and content and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(content)))
        return content | {key: draw(altered(content[key]))}
    if isinstance(content, list) and content and draw(st.integers(0, 5)):
        place = draw(st.integers(0, len(content) - 1))
        return [*content[:place], draw(altered(content[place])), *content[place + 1 :]]
    scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
    few = {"max_leaves": 4}
    return draw(st.recursive(scalars, lambda s: st.lists(s) | st.dictionaries(st.text(), s), **few))


def saved(write) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


@cache
def contents() -> dict:
    """A checkpoint, as training lays it out."""
    cfg = composed("train", [*TINY["small_unet"], "out=run"])
    return {
        "hyper_parameters": plain(cfg),
        "state_dict": build_module(cfg).state_dict(),
        "callbacks": {},
    }


@cache
def checkpoint() -> bytes:
    return saved(lambda file: torch.save(contents(), file))


@cache
def safetensors(tmp: Path) -> bytes:
    name = "denoiser.network."
    weights = {k.removeprefix(name): w for k, w in contents()["state_dict"].items()}
    write_weights(tmp, weights, {"hyper_parameters": contents()["hyper_parameters"]}, "float16")
    return tmp.read_bytes()


@cache
def npz() -> bytes:
    images, labels = Digits().load(train=False)
    return saved(lambda file: np.savez(file, images=images[:4].numpy(), labels=labels[:4].numpy()))


@cache
def png(mode: str) -> bytes:
    picture = Image.fromarray(Digits().load(train=False)[0][0, 0].numpy()).convert(mode)
    return saved(lambda file: picture.save(file, "TIFF" if mode == "F" else "PNG"))


CSV = b"step,train/loss,val/loss\n2,0.5,\n4,0.25,\n4,,0.375\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """path(name, bytes): of a file that holds them."""
    folder = tmp_path_factory.mktemp("damaged")

    def written(name: str, data: bytes) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return written


def read_or_refused(read, *arguments) -> None:
    try:
        read(*arguments)
    except ConfigError as refusal:
        assert str(refusal)


def denoiser_of(path: Path) -> None:
    load_denoiser(read_checkpoint(path))


@FUZZ
@given(st.data())
def test_a_checkpoint(path, data):
    read_or_refused(denoiser_of, path("a.ckpt", data.draw(damaged(checkpoint()))))


@FUZZ
@given(st.data())
def test_a_checkpoint_of_other_values(path, data):
    """Its bytes are right, and its config is somebody's idea."""
    parts = contents() | {"hyper_parameters": data.draw(altered(contents()["hyper_parameters"]))}
    read_or_refused(denoiser_of, path("b.ckpt", saved(lambda file: torch.save(parts, file))))


@FUZZ
@given(st.data())
def test_exported_weights(path, tmp_path_factory, data):
    whole = safetensors(tmp_path_factory.getbasetemp() / "whole.safetensors")
    read_or_refused(denoiser_of, path("a.safetensors", data.draw(damaged(whole))))


@FUZZ
@given(st.data())
def test_features(path, data):
    whole = OURS["features_mnist"].read_bytes()
    read_or_refused(load_features, str(path("f.safetensors", data.draw(damaged(whole)))))


@FUZZ
@given(st.data())
def test_features_of_other_sizes(path, data):
    _, metadata = read_weights(OURS["features_mnist"])
    altogether = {**metadata, "network": data.draw(altered(metadata["network"]))}
    file = path("g.safetensors", b"")
    write_weights(file, load_file(OURS["features_mnist"]), altogether, "float16")
    read_or_refused(load_features, str(file))


@FUZZ
@given(st.data())
def test_samples(path, data):
    read_or_refused(read_samples, str(path("s.npz", data.draw(damaged(npz())))))


@FUZZ
@given(st.data(), st.sampled_from(["L", "1", "P", "LA", "RGBA", "I;16", "F"]))
def test_a_picture(path, data, mode):
    read_or_refused(load_picture, path("p.png", data.draw(damaged(png(mode)))), (1, 28, 28))


@FUZZ
@given(st.data())
def test_rows_of_a_run(path, data):
    file = path("run/csv/metrics.csv", data.draw(damaged(CSV)))
    read_or_refused(read_metrics, str(file.parents[1]))


@FUZZ
@given(st.data())
def test_a_result(path, data):
    fields = {field.name: None for field in dataclasses.fields(Result)}
    text = json.dumps(data.draw(altered(fields))).encode()
    read_or_refused(Result.read, path("evaluation.json", data.draw(st.one_of(st.just(text), damaged(text)))))


def test_samples_that_are_no_arrays_or_encrypted(path):
    """Found by fuzzing with thousands of examples."""
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w") as file:
        file.writestr("images.npy", "abc")
    encrypted = bytearray(npz())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(header) + flags] |= 1
    for data in (text.getvalue(), bytes(encrypted)):
        with pytest.raises(ConfigError, match="which can't be read"):
            read_samples(str(path("s.npz", data)))


@pytest.mark.parametrize("before", [b"t", b"s", b"q", b"\x80\x02}."])
def test_a_checkpoint_behind_other_bytes(path, before):
    """Found by fuzzing: a zip archive may begin anywhere, but torch reads the first bytes as a pickle."""
    with pytest.raises(ConfigError, match="damaged, or not a checkpoint"):
        read_checkpoint(path("a.ckpt", before + checkpoint()))
