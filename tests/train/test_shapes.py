"""Every network at every shape that it takes: trained, resumed, sampled, edited, exported."""

import numpy as np
import onnxruntime
import pytest
import torch
from commands import TINY
from diffusers import DDIMPipeline
from PIL import Image

from lit_diffusion.checkpoint import load_denoiser, read_checkpoint
from lit_diffusion.edit.run import edit
from lit_diffusion.export.run import export
from lit_diffusion.interop.diffusers_unet import LitUNet
from lit_diffusion.sample.run import sample

NPZ = "data.source._target_=lit_diffusion.data.npz.Npz"  # the tests' own configs have the digits there
FEWER_BLOCKS = {  # the exporter takes a second per block
    "small_unet": ["model.blocks=[1,1]"],
    "attn_unet": [],
    "convnext_unet": ["model.multipliers=[1,1]"],
    "unet2d": ["model.widths=[8,8]", "model.attention_at=[]"],
    "dit": [],
    "uvit": [],
    "fc_unet": [],
}
# One shape of the quicker networks in every run of the suite, all others in make test-slow.
QUICK = ("small_unet", "dit")
CASES = [
    pytest.param(model, shape, marks=[] if shape == (3, 32, 48) and model in QUICK else pytest.mark.slow)
    for shape in ((3, 32, 48), (1, 28, 28), (3, 32, 32), (3, 64, 64))
    for model in TINY
    if model != "fc_unet" or shape[1:] == (28, 28)
]


@pytest.fixture
def file(tmp_path):
    """file(shape): the path of a .npz file with 40 images of two classes, and 8 for testing."""

    def written(shape):
        channels, height, width = shape
        generator = np.random.default_rng(0)
        n, labels = 48, np.arange(48) % 2
        images = generator.integers(0, 128, (n, channels, height, width)) + 127 * labels[:, None, None, None]
        images, path = images.astype(np.uint8), tmp_path / "images.npz"
        arrays = {"images": images[:40], "labels": labels[:40]}
        np.savez(path, **arrays, test_images=images[40:], test_labels=labels[40:])
        return path

    return written


@pytest.mark.parametrize("model, shape", CASES)
def test_a_shape(model, shape, file, config, tmp_path, straight_and_resumed):
    path, (channels, height, width) = file(shape), shape
    data = [
        "data=npz", NPZ, f"data.source.path={path}", f"data.channels={channels}",
        f"data.image_size=[{height},{width}]", "data.val_size=8",
        "data.batch_size=4", "optimizer.lr=1e-2", "model.num_classes=2", f"model={model}",
    ]  # fmt: skip
    if model == "attn_unet":
        data.append(f"model.attention_at=[{height // 4}]")  # the lowest: else most of the time goes there
    straight, resumed = straight_and_resumed(*data, *TINY[model], *FEWER_BLOCKS[model])
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)

    ckpt = f"ckpt={tmp_path}/straight/checkpoints/last.ckpt"
    out = config(ckpt, "n=3", "rows=1", "steps=2", "npz=true", f"out={tmp_path}/s", config_name="sample")
    grid, npz, _ = sample(out)
    assert np.load(npz)["images"].shape == (3, *shape)
    assert Image.open(grid).size == (3 * (width + 2) + 2, height + 4)

    edits = {"inpaint": ["edit.n=2", "edit.steps=2"], "hybrid": ["edit.n=2", "edit.steps=2"]}
    for name, options in edits.items():
        wanted = [f"edit={name}", ckpt, *options, "sampler.steps=2", f"data_root={path}", f"out={tmp_path}/e"]
        assert Image.open(edit(config(*wanted, config_name="edit"))[1]).size == (
            2 * (width + 2) + 2,
            height + 4,
        )

    denoiser = load_denoiser(read_checkpoint(tmp_path / "straight/checkpoints/last.ckpt"))
    x_t = torch.randn(2, *shape, generator=torch.manual_seed(1))
    time, y = torch.tensor([3.0, 600.0]), torch.tensor([0, 1])
    with torch.no_grad():
        expected = denoiser.network(x_t, time, y)
    (onnx,) = export(config(ckpt, "format=onnx", f"out={tmp_path}/onnx", config_name="export"))
    session = onnxruntime.InferenceSession(onnx)
    inputs = {"x_t": x_t.numpy(), "time_input": time.numpy(), "y": y.numpy()}
    np.testing.assert_allclose(session.run(None, inputs)[0], expected.numpy(), atol=2e-5)
    export(config(ckpt, "format=diffusers", f"out={tmp_path}/diffusers", config_name="export"))
    theirs = DDIMPipeline.from_pretrained(str(tmp_path / "diffusers"))
    assert isinstance(theirs.unet, LitUNet)
    with torch.no_grad():
        assert torch.equal(theirs.unet(x_t, time, y).sample, expected)
    made = theirs(
        batch_size=1, num_inference_steps=2, output_type="np", generator=torch.manual_seed(0)
    ).images
    assert made.shape == (1, height, width, channels)
