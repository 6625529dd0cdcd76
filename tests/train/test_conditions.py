"""Conditions that are images, from training to scores; and augmentation as a part of training."""

from functools import partial

import numpy as np
import pytest
import torch
from commands import TINY
from digits import Digits
from PIL import Image
from torch.nn import functional as F

from lit_diffusion.checkpoint import load_denoiser, read_checkpoint
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.images import to_float, to_uint8
from lit_diffusion.conditions import LowResolution, Paired
from lit_diffusion.denoiser import NetworkDenoiser
from lit_diffusion.edit.run import edit
from lit_diffusion.evaluate.run import evaluate
from lit_diffusion.export.run import export
from lit_diffusion.guidance import Guidance
from lit_diffusion.predictions import X
from lit_diffusion.sample.run import sample
from lit_diffusion.samplers.ancestral import Ancestral
from lit_diffusion.samplers.ddim import DDIM
from lit_diffusion.samplers.dpmpp import DPMpp2M
from lit_diffusion.samplers.generate import generate
from lit_diffusion.samplers.heun import Heun
from lit_diffusion.samplers.unipc import UniPC
from lit_diffusion.schedules import Cosine, Flow
from lit_diffusion.train.run import build_module, prepare, train

SMALL = ["debug=limit", "optimizer.lr=1e-2", "callbacks.samples.n=6", *TINY["small_unet"]]
UPSCALE = ["condition=low_resolution", "model.condition_channels=1", *SMALL]


class Obeys(torch.nn.Module):
    """Puts out the image that conditions it: perfect where the condition is all there is to know."""

    num_classes = 0
    condition_channels = 3

    def forward(self, x_t, time_input, y=None):
        return torch.zeros_like(x_t) if y is None else y


SAMPLERS = {
    "ddim": DDIM,
    "ancestral": Ancestral,
    "heun": Heun,
    "dpmpp_2m": DPMpp2M,
    "dpmpp_2m_sde": partial(DPMpp2M, eta=1.0),
    "unipc": UniPC,
}


@pytest.mark.parametrize("scale", [0, 1, 2])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", [Cosine, Flow])
def test_every_sampler_obeys_the_image(schedule, sampler, scale):
    """With guidance too: the null condition is an image of zeros, so that scale w gives w times the image."""
    denoiser = Guidance(scale).applied(NetworkDenoiser(Obeys(), schedule(), X()))
    y = torch.rand(4, 3, 4, 6, generator=torch.manual_seed(0)) * 0.8 - 0.4
    x = generate(SAMPLERS[sampler](6, clip=False), denoiser, range(4), (3, 4, 6), y=y)
    torch.testing.assert_close(x, scale * y, atol=2e-5, rtol=0)


def test_a_low_resolution_is_means_of_blocks_in_256_levels():
    x = to_float(Digits().load(train=True)[0][:5])
    condition = LowResolution(2)
    given = condition.input_of(x, torch.zeros(5))
    assert given.shape == (5, 1, 14, 14) == (5, *condition.input_shape((1, 28, 28)))
    blocks = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    assert (given - blocks).abs().max() <= 0.5 / 127.5 + 1e-6
    assert torch.equal(to_float(to_uint8(given)), given)  # what a PNG of it gives back
    y = condition(x, torch.zeros(5))
    assert y.shape == x.shape and torch.equal(y, condition.from_input(given, (1, 28, 28)))
    torch.testing.assert_close(
        y, F.interpolate(given, (28, 28), mode="bicubic").clamp(-1, 1), atol=1e-6, rtol=0
    )
    with pytest.raises(ConfigError, match=r"condition.factor is 3, which doesn't divide the images' 28 x 28"):
        LowResolution(3).input_shape((1, 28, 28))


def test_pairs_are_the_other_image_and_nothing_else():
    x, other = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    assert Paired()(x, other) is other
    with pytest.raises(ConfigError, match="no images like them"):
        Paired()(x, torch.zeros(2))


def test_the_loss_is_that_of_the_conditioned_network_and_of_zeros_for_a_dropped_image(config):
    """With all conditions dropped the loss is that of a network that is given zeros."""
    cfg = config(*UPSCALE)
    module = build_module(cfg)
    torch.nn.init.normal_(module.denoiser.network.conv_out.weight, std=0.1)
    x, labels = to_float(Digits().load(train=True)[0][:4]), torch.zeros(4, dtype=torch.int64)
    y = module.condition_of(x, labels)
    assert torch.equal(y, LowResolution(2)(x, labels))
    t, eps = torch.full((4,), 0.5), torch.randn(x.shape, generator=torch.manual_seed(0))
    with torch.no_grad():
        given, none, zeros = (module.losses(x, c, t, eps) for c in (y, None, module.denoiser.null(y)))
    assert torch.equal(none, zeros)
    assert not torch.allclose(given, none)


def test_a_share_of_the_conditions_is_dropped(config, monkeypatch):
    """An image of zeros takes the place of a fifth of them, in training alone."""
    from test_module import attached

    module = attached(build_module(config(*UPSCALE, "module.label_dropout=0.2")))
    given = []
    monkeypatch.setattr(module, "losses", lambda x, y, t, eps, *_: given.append(y) or x.mean((1, 2, 3)))
    x, labels = to_float(Digits().load(train=True)[0]), torch.zeros(320, dtype=torch.int64)
    module.training_step((x, labels), 0)
    dropped = (given[0] == 0).flatten(1).all(1)
    assert 0.1 < dropped.double().mean() < 0.3
    assert torch.equal(given[0][~dropped], module.condition_of(x, labels)[~dropped])
    module.validation_step((x, labels), 0)
    assert torch.equal(given[1], module.condition_of(x, labels))


def test_superresolution_from_training_to_scores(config, tmp_path):
    train(config(*UPSCALE, "guidance.scale=2", f"out={tmp_path}/run"))
    (grid,) = (tmp_path / "run" / "samples").glob("grid*.png")
    picture = np.asarray(Image.open(grid))[..., 0]
    assert picture.shape == (3 * 30 + 2, 10 * 30 + 2)  # conditions, samples, the images wanted
    ckpt = f"ckpt={tmp_path}/run/checkpoints/last.ckpt"

    small = Image.fromarray(Digits().load(train=False)[0][0, 0].numpy()).resize((14, 14))
    small.save(tmp_path / "small.png")
    options = [ckpt, "steps=2", "rows=1", "npz=true", "gif=false"]
    wanted = config(
        *options, "n=3", f"input={tmp_path}/small.png", f"out={tmp_path}/mine", config_name="sample"
    )
    shown = np.asarray(Image.open(sample(wanted)[0]))[..., 0]
    assert shown.shape == (2 * 30 + 2, 3 * 30 + 2)  # there is no image that was wanted
    above = shown[2:30, 2:30].astype(float)
    expected = LowResolution(2).from_input(to_float(torch.tensor(np.asarray(small)))[None, None], (1, 28, 28))
    assert np.abs(above - to_uint8(expected)[0, 0].numpy()).max() == 0
    sample(config(*options, "n=3", f"out={tmp_path}/theirs", config_name="sample"))
    assert np.asarray(Image.open(tmp_path / "theirs" / "grid.png")).shape[0] == 3 * 30 + 2

    scores = [ckpt, "n=40", "steps=2", "k=2", "bits_n=2", "bits_steps=3", "cas_images=0", "logger=none"]
    scores += [
        "features=mnist",
        "second=false",
        f"out={tmp_path}/scores",
        "data=mnist",
        "data.source._target_=digits.Mnist",
    ]
    result, _ = evaluate(config(*scores, config_name="evaluate"))
    assert {"psnr", "feature_distance", "class_accuracy", "bits_per_dim"} <= {*result.scores}
    assert result.inputs["psnr"] > result.scores["psnr"]  # of a network that has learnt nothing
    assert result.inputs["class_accuracy"] > 0.5
    with pytest.raises(ConfigError, match="n is 81, but test images condition the samples, and Mnist has 80"):
        evaluate(config(*scores, "n=81", f"out={tmp_path}/more", config_name="evaluate"))

    with pytest.raises(
        ConfigError, match="but images condition this one: sample it with lit-diffusion sample"
    ):
        edit(config("edit=inpaint", ckpt, f"out={tmp_path}/edit", config_name="edit"))
    with pytest.raises(ConfigError, match="y is 3, but images condition this model"):
        sample(config(*options, "y=3", f"out={tmp_path}/y", config_name="sample"))
    with pytest.raises(ConfigError, match="no pipeline of a network that an image conditions"):
        export(config(ckpt, "format=diffusers", f"out={tmp_path}/d", config_name="export"))


def test_onnx_takes_the_image(config, tmp_path):
    import onnxruntime

    train(config(*UPSCALE, "callbacks.samples=null", f"out={tmp_path}/run"))
    ckpt = tmp_path / "run" / "checkpoints" / "last.ckpt"
    (path,) = export(config(f"ckpt={ckpt}", "format=onnx", f"out={tmp_path}/onnx", config_name="export"))
    x_t, y = torch.randn(2, 2, 1, 28, 28, generator=torch.manual_seed(0))
    time = torch.tensor([3.0, 600.0])
    with torch.no_grad():
        expected = load_denoiser(read_checkpoint(ckpt)).network(x_t, time, y)
    inputs = {"x_t": x_t.numpy(), "time_input": time.numpy(), "y": y.numpy()}
    output = onnxruntime.InferenceSession(path).run(None, inputs)[0]
    np.testing.assert_allclose(output, expected.numpy(), atol=1e-5)


def test_pairs_are_trained_sampled_and_scored(config, tmp_path):
    train(
        config(
            *SMALL,
            "condition=paired",
            "model.condition_channels=1",
            "data.source._target_=pairs.Inverted",
            "data.num_classes=0",
            f"out={tmp_path}/run",
        )
    )
    ckpt = f"ckpt={tmp_path}/run/checkpoints/last.ckpt"
    trust = "trust=[pairs.Inverted]"
    options = [ckpt, trust, "n=6", "steps=2", "rows=1", "gif=false", f"out={tmp_path}/s"]
    shown = np.asarray(Image.open(sample(config(*options, config_name="sample"))[0]))[..., 0]
    condition, _, wanted = (shown[2 + k * 30 : 30 + k * 30, 2:30] for k in range(3))
    assert (condition == 255 - wanted).all()
    scores = [ckpt, trust, "n=20", "steps=2", "k=2", "bits_n=2", "bits_steps=3", "logger=none"]
    scores += ["features=mnist", "second=false", f"out={tmp_path}/scores"]
    result, _ = evaluate(config(*scores, config_name="evaluate"))
    assert "class_accuracy" not in result.scores and result.scores["psnr"] > 0


@pytest.mark.parametrize(
    "overrides, says",
    [
        (
            ["condition=low_resolution"],
            "condition_channels is 0, but condition is LowResolution, of 1 channels",
        ),
        (["model.condition_channels=1"], "condition_channels is 1, but there is no condition"),
        (
            ["condition=low_resolution", "model.condition_channels=1", "model.num_classes=10"],
            "a network takes labels or images",
        ),
        (
            ["condition=low_resolution", "model=fc_unet"],
            "choose model.condition_channels=1, or another model",
        ),
        (["augment=edm"], "augment_width is 0, but augment Edm tells the network 9 numbers"),
        (["model.augment_width=9"], "augment_width is 9, but there is no augment to tell of"),
        (["augment=edm", "model=fc_unet"], "choose model.augment_width=9, or another model or augment"),
        (
            ["condition=paired", "model.condition_channels=1", "augment=flip"],
            "condition is Paired, whose pairs would no longer fit",
        ),
        ([*UPSCALE, "callbacks.samples.n=61"], "samples.n is 61, but data.val_size is 60"),
    ],
)
def test_parts_that_do_not_fit_are_refused(config, overrides, says):
    with pytest.raises(ConfigError, match=says):
        prepare(config(*overrides))


@pytest.mark.parametrize("options", [["augment=flip"], ["augment=edm", "model.augment_width=9"]])
def test_augmented_runs_resume_bit_for_bit(straight_and_resumed, options):
    straight, resumed = straight_and_resumed(*options, *TINY["small_unet"], "optimizer.lr=1e-2")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_two_processes_augment_the_batch_of_one(config):
    """Each takes its share of what is drawn for all, so that n processes take the steps of one."""
    from test_module import attached

    cfg = config("augment=edm", "model.augment_width=9", *TINY["small_unet"])
    x = to_float(Digits().load(train=True)[0][:8])
    whole, told = attached(build_module(cfg))._augmented(x, 7, 0)
    for rank in (0, 1):
        half, of_half = attached(build_module(cfg), rank, 2)._augmented(x[rank::2], 7, 0)
        assert torch.equal(half, whole[rank::2]) and torch.equal(of_half, told[rank::2])
    assert not torch.equal(attached(build_module(cfg))._augmented(x, 8, 0)[0], whole)


def test_augmentation_is_the_same_in_half_precision(config):
    """Coordinates in bfloat16 would move pixels by a sixteenth of one."""
    from test_module import attached

    module = attached(build_module(config("augment=edm", "model.augment_width=9", *TINY["small_unet"])))
    x = to_float(Digits().load(train=True)[0][:20])
    expected, _ = module._augmented(x, 7, 0)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = module._augmented(x, 7, 0)
    assert torch.equal(found, expected)
    assert not torch.equal(found, x)


@pytest.mark.parametrize("change", ["condition.factor=4", "condition.factor=7"])
def test_a_run_goes_on_with_the_condition_that_it_had(config, tmp_path, change):
    train(config(*UPSCALE, "callbacks.samples=null", f"out={tmp_path}/run"))
    more = [f"ckpt={tmp_path}/run/checkpoints/last.ckpt", "trainer.max_epochs=2", f"out={tmp_path}/on"]
    with pytest.raises(ConfigError, match=r"condition.factor was 2 and is"):
        train(config(*UPSCALE, "callbacks.samples=null", change, *more))
    with pytest.raises(ConfigError, match=r"augment.share was None and is 0.5"):
        train(config(*UPSCALE, "callbacks.samples=null", "augment=flip", *more))


def test_a_run_from_before_a_class_got_an_argument_goes_on(config, tmp_path):
    options = [*SMALL, "callbacks.samples=null"]
    train(config(*options, f"out={tmp_path}/run"))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    contents = torch.load(path)
    for key in ("patch_size", "attention_at", "dropout", "condition_channels", "augment_width"):
        del contents["hyper_parameters"]["model"][key]
    torch.save(contents, path)
    more = ["trainer.max_epochs=2", f"ckpt={path}"]
    train(config(*options, *more, f"out={tmp_path}/on"))
    with pytest.raises(ConfigError, match=r"model.patch_size was 2 and is 1"):
        train(config(*options, *more, "model.patch_size=1", f"out={tmp_path}/other"))


def test_the_network_is_told_in_training_alone(config):
    """Zeros, which sampling gives it, are what an image as it is has."""
    cfg = config("augment=edm", "model.augment_width=9", *TINY["small_unet"])
    denoiser = build_module(cfg).denoiser
    for weight in denoiser.network.parameters():
        if not weight.any():  # what starts at zero would hide the rest
            torch.nn.init.normal_(weight, std=0.1)
    x_t, t = torch.randn(2, 1, 28, 28), torch.full((2,), 0.5)
    with torch.no_grad():
        plain, zeros = denoiser.output(x_t, t), denoiser.output(x_t, t, augment=torch.zeros(2, 9))
        told = denoiser.output(x_t, t, augment=torch.ones(2, 9))
    assert torch.equal(plain, zeros)
    assert not torch.allclose(plain, told)
