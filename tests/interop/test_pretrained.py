"""Pipelines of diffusers as denoisers, through the real loading code, on tiny random weights."""

import numpy as np
import pytest
import tiny_if
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DiffusionPipeline,
    EDMEulerScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    UNet2DModel,
)
from gaussian import Gaussian, exact_denoiser
from PIL import Image

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.edit.run import edit
from lit_diffusion.guidance import Guidance, Guided
from lit_diffusion.interop import pretrained
from lit_diffusion.interop.pretrained import Pretrained, Upscaler
from lit_diffusion.predictions import Eps
from lit_diffusion.sample.run import sample
from lit_diffusion.samplers.ancestral import Ancestral
from lit_diffusion.samplers.ddim import DDIM
from lit_diffusion.schedules import Linear

CAT = "a photo of a cat"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tiny_if.save(tmp_path_factory.mktemp("tiny_if"))


def in_float64(pipeline):
    """So that formulas are compared: random weights and guidance make a rounding error 1e4 times larger."""
    pipeline.to(torch.float64)
    for scheduler in (pipeline.scheduler, getattr(pipeline, "image_noising_scheduler", pipeline.scheduler)):
        scheduler.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)
        scheduler.one = torch.ones((), dtype=torch.float64)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def same_noise(*shape):
    generator = torch.Generator().manual_seed(100)
    return lambda: torch.randn(shape, generator=generator, dtype=torch.float64)


def theirs(pipeline, *args, **options):
    generator = torch.Generator().manual_seed(100)
    return pipeline(*args, generator=generator, output_type="pt", clean_caption=False, **options).images


@pytest.mark.parametrize("steps", [20, 100])
@pytest.mark.parametrize("guidance", [1.0, 7.0])
def test_stage_1_is_theirs(folders, steps, guidance):
    pipeline = in_float64(IFPipeline.from_pretrained(folders[0]))
    asked = {"negative_prompt": ["rainy day"] * 2} if guidance > 1 else {}
    expected = theirs(pipeline, [CAT, "a dog"], num_inference_steps=steps, guidance_scale=guidance, **asked)
    denoiser = Pretrained(pipeline, "rainy day")
    sampler = Ancestral(steps, clip=(0.95, 1.5), variance="learned")
    noise = same_noise(2, 3, 16, 16)
    y = torch.cat([denoiser.encode(prompt) for prompt in (CAT, "a dog")])
    ours = sampler(Guided(denoiser, Guidance(guidance)), noise(), y, noise)
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=0)
    assert expected.std() > 0.2


def test_a_model_trained_as_edm_is_sampled_as_theirs(tmp_path, config):
    """Saved and loaded again; its grid, what it is told of the noise, its preconditioning."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        8, 1, 1, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    DDPMPipeline(unet, EDMEulerScheduler(sigma_max=40.0, sigma_data=0.6)).save_pretrained(tmp_path)
    denoiser = Pretrained(DiffusionPipeline.from_pretrained(tmp_path).to(torch.float64))
    scheduler = denoiser.pipeline.scheduler
    scheduler.set_timesteps(12)
    x_t = 40 * torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.manual_seed(1))
    ours = DDIM(12, clip=False, grid="karras")(denoiser, x_t)
    with torch.no_grad():
        for c_noise in scheduler.timesteps:
            output = denoiser.pipeline.unet(scheduler.scale_model_input(x_t, c_noise), c_noise).sample
            x_t = scheduler.step(output, c_noise, x_t).prev_sample
    torch.testing.assert_close(ours, x_t, atol=1e-3, rtol=0)  # their noise levels are in float32
    assert denoiser.shape == (1, 8, 8)


def test_stage_2_is_theirs(folders, monkeypatch):
    pipeline = in_float64(IFSuperResolutionPipeline.from_pretrained(folders[1]))
    small = torch.rand(1, 3, 16, 16, generator=torch.manual_seed(0), dtype=torch.float64) * 2 - 1
    expected = theirs(pipeline, CAT, image=small, num_inference_steps=10, guidance_scale=4.0, noise_level=250)
    monkeypatch.setattr(pretrained, "ImageNoise", lambda *_: same_noise(1, 3, 32, 32))
    upscaler = Upscaler(
        pipeline, pipeline, Ancestral(10, clip=(0.95, 1.5), variance="learned"), Guidance(4.0), 250
    )
    prompts = Pretrained(pipeline)
    ours = upscaler(small, [0], 0, prompts.encode(CAT), prompts.unconditional)
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=0)


def test_an_unconditional_pipeline_without_learnt_variance(tmp_path, config):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
    )
    scheduler = DDIMScheduler(1000, clip_sample=True, prediction_type="v_prediction")
    DDIMPipeline(unet, scheduler).save_pretrained(tmp_path / "pipeline")
    pipeline = in_float64(DDIMPipeline.from_pretrained(tmp_path / "pipeline"))
    scheduler = pipeline.scheduler
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    x_t = same_noise(2, 1, 16, 16)()
    ours = DDIM(10, clip=True)(Pretrained(pipeline), x_t)
    scheduler.set_timesteps(10)
    for i in scheduler.timesteps:
        output = pipeline.unet(x_t, i).sample
        x_t = scheduler.step(output, i, x_t, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(ours, x_t, atol=1e-9, rtol=0)
    options = [f"pretrained.path={tmp_path}/pipeline", "sampler=ddim", "steps=3", "n=4", "rows=2"]
    assert sample(config("pretrained=diffusers", *options, config_name="sample"))[0].is_file()
    with pytest.raises(ConfigError, match="takes no prompts"):
        sample(config("pretrained=diffusers", *options, "prompt=a cat", config_name="sample"))
    with pytest.raises(ConfigError, match=r"guidance\.scale is 2"):
        sample(config("pretrained=diffusers", *options, "guidance.scale=2", config_name="sample"))


@pytest.fixture
def deepfloyd(config, folders):
    """deepfloyd(command, *overrides): the config of model=deepfloyd on the tiny weights."""

    def composed(name: str, *overrides: str, model: str = "deepfloyd"):
        tiny = [
            f"pretrained.path={folders[0]}",
            "pretrained.dtype=float32",
            "pretrained.variant=null",
            "steps=6",
            "seed=100",
        ]
        if model == "deepfloyd_256":
            tiny += [f"pretrained.upscaler.path={folders[1]}", "pretrained.upscaler.sampler.steps=4"]
        return config(f"pretrained={model}", *tiny, *overrides, config_name=name)

    return composed


def images(paths):
    with np.load(next(p for p in paths if p.suffix == ".npz")) as arrays:
        assert arrays.files == ["images"]
        return arrays["images"].astype(int)


@pytest.mark.parametrize("model, size", [("deepfloyd", 16), ("deepfloyd_256", 32)])
def test_sampling_by_prompts(deepfloyd, model, size):
    prompts = f"prompt=[{CAT},an oil painting]"

    def made(*options):
        return images(
            sample(
                deepfloyd("sample", "n=4", "rows=1", "guidance.scale=7", "npz=true", *options, model=model)
            )
        )

    first = made(prompts)
    assert first.shape == (4, 3, size, size)
    assert np.abs(made(prompts, "batch_size=3") - first).max() <= 2
    assert np.array_equal(made(f"prompt={CAT}")[0], first[0])
    assert not np.array_equal(made(f"prompt={CAT}")[1], first[1])
    assert not np.array_equal(made(prompts, "negative_prompt=rainy day")[0], first[0])


@pytest.mark.parametrize(
    "name, asked",
    {
        "one_step": ["edit.y=cat"],
        "sdedit": ["edit.y=a rainy day", "edit.starts=[1,3,5]"],
        "inpaint": ["edit.y=cat", "edit.mask=left_half", "edit.n=2"],
        "anagram": ["edit.upright=a cat", "edit.turned=a dog", "edit.n=2"],
        "hybrid": ["edit.low=a temple", "edit.high=a cat", "edit.n=2"],
        "interpolate": ["edit.first=a cat", "edit.second=a dog", "edit.n=3"],
    }.items(),
)
def test_editing_by_prompts(deepfloyd, tmp_path, name, asked):
    picture = Image.linear_gradient("L").resize((40, 40)).convert("RGB")
    picture.save(tmp_path / "mine.png")
    figure, result = edit(
        deepfloyd("edit", f"edit={name}", f"input={tmp_path}/mine.png", "guidance.scale=3", "dpi=40", *asked)
    )
    assert figure.name == f"{name}.png"
    before = Image.open(result).tobytes()
    other = [option.replace("cat", "temple").replace("rainy", "high") for option in asked]
    given = [f"edit={name}", f"input={tmp_path}/mine.png", "guidance.scale=3", "dpi=40", *other]
    assert Image.open(edit(deepfloyd("edit", *given))[1]).tobytes() != before


@pytest.mark.parametrize(
    "command, overrides, says",
    [
        (sample, [], "prompt is missing"),
        (sample, ["prompt=cat", "ckpt=x.ckpt"], "leave one out"),
        (sample, ["prompt=cat", "pretrained.dtype=float8"], "pretrained.dtype is float8"),
        (sample, ["prompt=cat", "pretrained.offload=true", "device=cpu"], "no GPU to offload from"),
        (sample, ["prompt=cat", "sampler=dpmpp_2m", "steps=1001"], "1001 steps"),
        (sample, ["prompt=cat", "y=3"], "leave one out"),
        (sample, ["prompt=cat", "precision=auto"], "precision is auto, but a pretrained model runs in"),
        (edit, ["edit=sdedit"], "input is missing"),
        (edit, ["edit=anagram"], "takes prompts"),
    ],
)
def test_mistakes(deepfloyd, command, overrides, says):
    with pytest.raises(ConfigError, match=says):
        command(deepfloyd(command.__name__, *overrides))


def test_nothing_asked_is_not_the_negative_prompt(folders):
    denoiser = Pretrained(IFPipeline.from_pretrained(folders[0]), "rainy day")
    assert torch.equal(denoiser.encode(None), denoiser.encode(""))
    assert torch.equal(denoiser.null(denoiser.encode(CAT)), denoiser.encode("rainy day"))
    assert not torch.equal(denoiser.encode(""), denoiser.encode("rainy day"))


def test_half_precision_runs_with_a_path_in_full(folders):
    pipeline = IFPipeline.from_pretrained(folders[0], dtype=torch.bfloat16)
    denoiser = Guided(Pretrained(pipeline), Guidance(3.0))
    x_t = torch.randn(2, 3, 16, 16, generator=torch.manual_seed(0))
    x = Ancestral(4, clip=True, variance="learned")(denoiser, x_t, denoiser.encode(CAT).expand(2, -1, -1))
    assert x.dtype == torch.float32
    assert x.isfinite().all()


def test_the_tutorials_prompts_compose(config):
    prompts = config("experiment=deepfloyd/prompts", config_name="sample")
    assert len(prompts.prompt) == prompts.n == 3
    assert (prompts.seed, prompts.steps, prompts.pretrained.upscaler.sampler.steps) == (100, 20, 20)
    temple = config("experiment=deepfloyd/temple_100", config_name="sample")
    assert (temple.steps, temple.pretrained.upscaler.sampler.steps) == (100, 100)
    assert config("experiment=deepfloyd/high_quality_photo", config_name="sample").pretrained.upscaler is None
    rainy = config("experiment=deepfloyd/rainy_day", "input=x.png", config_name="edit")
    assert (rainy.edit.y, rainy.edit.starts[:2], rainy.seed) == ("a rainy day", [1, 3], 100)


def test_pipelines_of_latents_are_refused(folders):
    pipeline = IFPipeline.from_pretrained(folders[0])
    pipeline.vae = torch.nn.Identity()
    with pytest.raises(ConfigError, match="no pipeline of a U-Net in pixel space"):
        Pretrained(pipeline)


def test_more_mistakes(config, tmp_path):
    with pytest.raises(ConfigError, match=r"pretrained.path is .* can't be loaded"):
        options = ["prompt=cat", "pretrained=deepfloyd", f"pretrained.path={tmp_path}/nothing"]
        sample(config(*options, config_name="sample"))
    with pytest.raises(ConfigError, match="without the upscaler"):
        edit(config("edit=anagram", "pretrained=deepfloyd_256", config_name="edit"))


def test_a_learnt_variance_is_asked_of_models_that_learnt_one(folders):
    learnt = Guided(Pretrained(IFPipeline.from_pretrained(folders[0])), Guidance(2.0))
    unlearnt = exact_denoiser(Gaussian, Linear(), Eps())
    Ancestral(5, clip=False, variance="learned").check(learnt)
    Ancestral(5, clip=False).check(unlearnt)
    with pytest.raises(ConfigError, match="learnt none"):
        Ancestral(5, clip=False, variance="learned").check(unlearnt)
