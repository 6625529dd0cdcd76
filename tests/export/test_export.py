import importlib.util
import json
import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from commands import TINY
from diffusers import DDIMPipeline, DDPMPipeline, FlowMatchEulerDiscreteScheduler
from omegaconf import OmegaConf
from safetensors.torch import load_file, save

from lit_diffusion.checkpoint import build_denoiser, load_denoiser, read_checkpoint
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.export.run import export
from lit_diffusion.figures.tutorials import load_single_step
from lit_diffusion.interop.diffusers_unet import LitUNet
from lit_diffusion.sample.run import sample
from lit_diffusion.samplers.ancestral import Ancestral
from lit_diffusion.samplers.ddim import DDIM
from lit_diffusion.samplers.grids import spaced
from lit_diffusion.train.run import train

SHAPE = (1, 28, 28)


@pytest.fixture
def saved(config, tmp_path):
    """saved(*overrides): the path of a checkpoint as training writes it, its weights random everywhere.

    The average differs from the weights themselves, as a run's does.
    """

    def made(*overrides: str, model: str = "small_unet"):
        cfg = config(f"model={model}", *TINY[model], *overrides)
        network = build_denoiser(cfg).network
        generator = torch.Generator().manual_seed(0)
        weights = {f"denoiser.network.{name}": w for name, w in network.state_dict().items()}
        floats = {name: w for name, w in weights.items() if w.is_floating_point()}
        for w in floats.values():
            if not w.any():  # what starts at zero would make the output zero
                w.copy_(torch.randn(w.shape, generator=generator) * 0.2)
        contents = {
            "hyper_parameters": OmegaConf.to_container(cfg, resolve=True),
            "state_dict": weights,
            "callbacks": {"ema": {"average": {name: w * 1.1 for name, w in floats.items()}}},
        }
        torch.save(contents, tmp_path / "random.ckpt")
        return tmp_path / "random.ckpt"

    return made


@pytest.fixture
def exported(config):
    """exported(ckpt, *overrides): the files that the command writes."""

    def made(ckpt, *overrides: str):
        return export(config(f"ckpt={ckpt}", *overrides, config_name="export"))

    return made


def start(n: int = 3):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))


def denoiser_of(path):
    return load_denoiser(read_checkpoint(path))


def test_safetensors_samples_what_the_checkpoint_does(config, tmp_path, exported):
    """Bit for bit, from a run that kept an average."""
    options = ["debug=limit", "model.num_classes=10", "optimizer.lr=1e-2", "callbacks.samples=null"]
    train(config(*options, *TINY["small_unet"]))
    ckpt = tmp_path / "checkpoints" / "last.ckpt"
    (model,) = exported(ckpt)
    assert model.name == "model.safetensors"

    def images(path):
        sampled = sample(
            config(f"ckpt={path}", "steps=4", "n=8", "npz=true", "gif=false", config_name="sample")
        )
        with np.load(sampled[1]) as arrays:
            return arrays["images"]

    assert np.array_equal(images(ckpt), images(model))
    assert images(ckpt).std() > 10
    theirs, ours = denoiser_of(ckpt).state_dict(), denoiser_of(model).state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert read_checkpoint(model)["hyper_parameters"] == read_checkpoint(ckpt)["hyper_parameters"]
    with pytest.raises(ConfigError, match="holds weights alone"):
        train(config(*options, *TINY["small_unet"], f"ckpt={model}", "trainer.max_epochs=2"))


def test_the_average_is_what_is_exported(saved, exported):
    ckpt = saved()
    contents = torch.load(ckpt)
    weights = load_file(exported(ckpt)[0])
    for name, weight in weights.items():
        assert torch.equal(weight, contents["callbacks"]["ema"]["average"][f"denoiser.network.{name}"])


@pytest.mark.parametrize("dtype, within", [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_half_the_size_reads_back_as_float32(saved, exported, dtype, within):
    """Each weight is the nearest there is; a batch norm's count of batches stays a whole number."""
    ckpt = saved(model="fc_unet")
    (path,) = exported(ckpt, f"dtype={dtype}")
    stored = load_file(path)
    assert {w.dtype for w in stored.values()} == {getattr(torch, dtype), torch.int64}
    full, half = denoiser_of(ckpt).state_dict(), denoiser_of(path).state_dict()
    for name, weight in full.items():
        assert half[name].dtype == weight.dtype
        torch.testing.assert_close(half[name], weight, rtol=within, atol=1e-7)


def test_a_weight_too_large_for_float16_is_refused(saved, exported):
    ckpt = saved()
    contents = torch.load(ckpt)
    contents["callbacks"]["ema"]["average"]["denoiser.network.conv_in.weight"][0] = 1e5
    torch.save(contents, ckpt)
    with pytest.raises(ConfigError, match="dtype is float16"):
        exported(ckpt, "dtype=float16")
    assert exported(ckpt, "dtype=bfloat16")[0].is_file()


@pytest.mark.parametrize(
    "model, num_classes, smaller",  # the exporter takes a second per block
    [
        ("small_unet", 0, "blocks=[1,1]"),
        ("small_unet", 3, "blocks=[1] widths=[8]"),
        ("attn_unet", 3, "down_channels=[8,8] mid_channels=[8,8] up_channels=[8,8] down_sample=[true]"),
        ("convnext_unet", 0, "multipliers=[1,1]"),
        ("fc_unet", 3, "width=4"),
        ("dit", 3, "depth=1"),
    ],
)
def test_onnx_is_the_network(saved, exported, model, num_classes, smaller, capfd, caplog):
    """At batch sizes other than the one it was exported at, in silence."""
    options = [f"model.{option}" for option in smaller.split()]
    ckpt = saved(f"model.num_classes={num_classes}", *options, model=model)
    capfd.readouterr()
    caplog.set_level(logging.INFO)  # Hydra's
    (path,) = exported(ckpt, "format=onnx")
    assert capfd.readouterr() == ("", "")
    assert not caplog.messages
    assert [p.name for p in path.parent.glob("model*")] == ["model.onnx"]  # weights and all
    program = onnx.load(path)
    assert not any(node.metadata_props for node in program.graph.node)  # paths of whoever exported it
    (metadata,) = program.metadata_props
    assert json.loads(metadata.value) == torch.load(ckpt)["hyper_parameters"]
    session = onnxruntime.InferenceSession(path)
    for n in (1, 4):
        inputs = [start(n), torch.linspace(0, 999, n)]
        if num_classes:
            inputs.append(torch.arange(n) % (num_classes + 1))  # the null label too
        with torch.no_grad():
            ours = denoiser_of(ckpt).network(*inputs)
        names = [i.name for i in session.get_inputs()]
        assert names == ["x_t", "time_input", "y"][: len(inputs)]
        (theirs,) = session.run(None, {k: v.numpy() for k, v in zip(names, inputs, strict=True)})
        assert ours.std() > 1e-3
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4, rtol=0)


def their_samples(scheduler, unet, x_t, **step):
    for i in scheduler.timesteps:
        with torch.no_grad():
            output = unet(x_t, i).sample
        x_t = scheduler.step(output, i, x_t, **step).prev_sample
    return x_t


def assert_same(theirs, ours):
    """Within 1e-4 of the largest value: unclipped, an untrained network's eps makes some in the thousands."""
    assert ours.std() > 0.1
    assert (theirs - ours).abs().max() <= 1e-4 * ours.abs().max().clamp(min=1)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    "schedule, prediction",
    [
        ("linear", "eps"),
        ("linear", "v"),
        ("linear", "x"),
        ("cosine", "eps"),
        ("cosine", "v"),
        ("sigmoid", "eps"),
    ],
)
def test_a_ddim_pipeline_samples_what_ddim_does(saved, exported, tmp_path, schedule, prediction, clip):
    ckpt = saved(f"schedule={schedule}", f"prediction={prediction}", "sampler=ddim", f"sampler.clip={clip}")
    files = exported(ckpt, "format=diffusers")
    assert [str(p.relative_to(tmp_path)) for p in files] == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    pipeline = DDIMPipeline.from_pretrained(tmp_path)
    pipeline.scheduler.set_timesteps(10)
    theirs = their_samples(pipeline.scheduler, pipeline.unet, start(), use_clipped_model_output=clip)
    assert_same(theirs, DDIM(10, clip=clip)(denoiser_of(ckpt), start()))


def test_the_ddim_pipeline_itself(saved, exported, tmp_path):
    """Its own loop and its own noise, which it draws as torch.randn does."""
    ckpt = saved("model.num_classes=3", "sampler=ddim")
    exported(ckpt, "format=diffusers")
    pipeline = DDIMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 5, "use_clipped_model_output": True, "output_type": "pt"}
    theirs = pipeline(3, torch.Generator().manual_seed(1), **options).images
    ours = DDIM(5, clip=True)(denoiser_of(ckpt), start())
    assert_same(theirs * 2 - 1, ours)


@pytest.mark.parametrize("variance, clip", [("small", True), ("large", True), ("small", [0.95, 1.5])])
def test_a_ddpm_pipeline_samples_what_ancestral_does(saved, exported, tmp_path, variance, clip):
    sampler = ["sampler=ancestral", f"sampler.variance={variance}", f"sampler.clip={clip}"]
    ckpt = saved("schedule=linear", "schedule.steps=20", *sampler)
    exported(ckpt, "format=diffusers")
    pipeline = DDPMPipeline.from_pretrained(tmp_path)
    pipeline.scheduler.set_timesteps(20)
    generator = torch.Generator().manual_seed(2)
    theirs = their_samples(pipeline.scheduler, pipeline.unet, start(), generator=generator)
    generator.manual_seed(2)
    ancestral = Ancestral(20, clip=clip, variance=variance)

    def noise():
        return torch.randn(3, *SHAPE, generator=generator)

    assert_same(theirs, ancestral(denoiser_of(ckpt), start(), noise=noise))
    assert type(DDIMPipeline.from_pretrained(tmp_path).scheduler).__name__ == "DDIMScheduler"


def test_flow_match_euler_samples_what_ddim_does(saved, exported, tmp_path):
    """Between the same times; theirs would begin at t = 1 itself."""
    exported(saved("schedule=linear"), "format=diffusers")  # in the same folder, and no trace of it stays
    ckpt = saved("schedule=flow", "prediction=velocity")
    files = exported(ckpt, "format=diffusers")
    assert [p.parent.name for p in files] == ["scheduler", "unet", "unet"]
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    unet = LitUNet.from_pretrained(tmp_path, subfolder="unet")
    denoiser = denoiser_of(ckpt)
    scheduler.set_timesteps(sigmas=spaced("uniform", denoiser.schedule, 10)[:-1].tolist())
    theirs = their_samples(scheduler, unet, start())
    assert_same(theirs, DDIM(10, clip=False)(denoiser, start()))


def test_an_exported_folder_is_a_pretrained_model(saved, exported, config, tmp_path):
    ckpt = saved("schedule=linear", "sampler.clip=true")
    exported(ckpt, "format=diffusers", f"out={tmp_path}/folder")
    images = []
    for source in ([f"ckpt={ckpt}"], ["pretrained=diffusers", f"pretrained.path={tmp_path}/folder"]):
        options = ["sampler=ddim", "steps=5", "n=4", "rows=2", "npz=true", "gif=false"]
        _, npz = sample(config(*source, *options, config_name="sample"))
        images.append(np.load(npz)["images"].astype(int))
    assert images[0].std() > 10
    assert np.abs(images[0] - images[1]).max() <= 1


@torch.no_grad()
def test_labels_of_the_diffusers_network(saved, exported, tmp_path):
    """None is the null label."""
    ckpt = saved("model.num_classes=3")
    exported(ckpt, "format=diffusers")
    unet = LitUNet.from_pretrained(tmp_path, subfolder="unet")
    network = denoiser_of(ckpt).network
    for y in (torch.tensor([0, 1, 2]), torch.tensor([3, 3, 3])):
        ours = network(start(), torch.full((3,), 500.0), y)
        assert torch.equal(unet(start(), 500, y).sample, ours)
    (unconditional,) = unet(start(), torch.tensor(500), return_dict=False)
    assert torch.equal(unconditional, ours)


def test_a_figure_of_an_exported_file(saved, exported):
    options = ["schedule.alpha_end=1", "schedule.sigma_end=0.5", "callbacks=denoiser"]
    ckpt = saved("schedule=single_step", *options)
    denoiser, _ = load_single_step(exported(ckpt)[0], ["digits.Digits"], "data", pure_noise=False)
    x = start()
    assert torch.equal(denoiser(x, torch.ones(3)).x, denoiser_of(ckpt)(x, torch.ones(3)).x)


@pytest.mark.parametrize(
    "overrides, says",
    [
        (["schedule=cosine", "prediction=velocity"], "no scheduler for schedule Cosine with prediction Vel"),
        (["schedule=flow", "prediction=v"], "no scheduler for schedule Flow with prediction V"),
        (["schedule=single_step", "prediction=x"], "no scheduler for schedule SingleStep with prediction X"),
    ],
)
def test_what_diffusers_has_no_scheduler_for_is_refused(saved, exported, tmp_path, overrides, says):
    with pytest.raises(ConfigError, match=says):
        exported(saved(*overrides), "format=diffusers")
    assert not (tmp_path / "unet").exists()


@pytest.mark.parametrize(
    "overrides, says",
    [
        (["format=gguf"], "format is gguf: choose one of safetensors, onnx, diffusers"),
        (["dtype=int8"], "dtype is int8: choose one of float32"),
        (["format=onnx", "dtype=float16"], "format=onnx is written in float32"),
        (["ckpt=null"], "ckpt is missing"),
        (["ckpt=nowhere"], "ckpt nowhere does not exist"),
        (["out=/proc/model"], "out is /proc/model, which can't"),
    ],
)
def test_mistakes_are_refused(saved, exported, overrides, says):
    with pytest.raises(ConfigError, match=says):
        exported(saved(), *overrides)


@pytest.mark.parametrize("format, package", [("onnx", "onnxscript"), ("diffusers", "diffusers")])
def test_what_is_missing_is_named(saved, exported, monkeypatch, format, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(ConfigError, match=rf"needs {package}: pip install 'lit_diffusion\[export\]'"):
        exported(saved(), f"format={format}")


def test_safetensors_of_others_are_refused(saved, exported):
    (path,) = exported(saved())
    whole = path.read_bytes()
    contents = {"w": torch.zeros(1)}
    foreign = [
        whole[: len(whole) // 2],
        whole[:4],
        b"",
        save(contents),
        save(contents, {"lit_diffusion": "{"}),
        save(contents, {"lit_diffusion": "[]"}),
        save(contents, {"lit_diffusion": "{}"}),
    ]
    for wrong in foreign:
        path.write_bytes(wrong)
        with pytest.raises(ConfigError, match="damaged, or not a checkpoint"):
            read_checkpoint(path)


def test_a_flipped_bit_of_a_weight_is_found(saved, exported):
    """The format itself has no checksum."""
    (path,) = exported(saved())
    whole = bytearray(path.read_bytes())
    whole[-100] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ConfigError, match="damaged, or not a checkpoint"):
        read_checkpoint(path)


def test_the_command(saved, run, tmp_path):
    saved("sampler=ddim")
    command = ["-m", "lit_diffusion.export", "ckpt=random.ckpt", "format=diffusers", "out=here"]
    exported = run(*command)
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.split()[0] == "here/model_index.json"
    assert exported.stderr == ""
    script = (
        "import lit_diffusion.interop.diffusers_unet, diffusers\n"
        "images = diffusers.DDIMPipeline.from_pretrained('here')(num_inference_steps=2).images\n"
        "print(images[0].size)"
    )
    (tmp_path / "draw.py").write_text(script)
    assert run("draw.py").stdout.strip() == "(28, 28)"
