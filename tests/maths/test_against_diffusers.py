"""The same betas, the same steps, the same noise and a fake network, against diffusers' schedulers."""

from functools import partial

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import nn

from lit_diffusion.denoiser import NetworkDenoiser
from lit_diffusion.predictions import Edm, Eps, V, Velocity, X
from lit_diffusion.samplers.ancestral import Ancestral
from lit_diffusion.samplers.ddim import DDIM
from lit_diffusion.samplers.dpmpp import DPMpp2M
from lit_diffusion.samplers.grids import spaced
from lit_diffusion.samplers.heun import Heun
from lit_diffusion.samplers.unipc import UniPC
from lit_diffusion.schedules import Cosine, Flow, Linear, Sigmoid, VarianceExploding

SCHEDULES = {"linear": Linear, "squaredcos_cap_v2": Cosine, "sigmoid": Sigmoid}
PREDICTIONS = {"epsilon": Eps, "sample": X, "v_prediction": V}
T = 1000


class FakeNetwork(nn.Module):
    """Smooth, and different at every pixel and index."""

    num_classes = 0

    def forward(self, x_t, time_input, y=None):
        return torch.sin(1.3 * x_t + 0.01 * time_input.reshape(-1, 1, 1, 1)) * 0.7 + 0.1 * x_t


def in_float64(scheduler, schedule):
    """diffusers keeps its tables in float32; the comparison is of formulas, so give it ours."""
    torch.testing.assert_close(scheduler.betas.double(), schedule.betas, atol=1e-7, rtol=1e-5)
    scheduler.betas = schedule.betas
    scheduler.alphas = 1 - schedule.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return scheduler


def their_samples(scheduler, x_t, **step):
    network = FakeNetwork()
    generator = torch.Generator().manual_seed(1)
    for i in scheduler.timesteps:
        output = network(x_t, i.double().expand(len(x_t)))
        x_t = scheduler.step(output, i, x_t, generator=generator, **step).prev_sample
    return x_t


def our_samples(sampler, schedule, prediction, scheduler, x_t):
    """Along diffusers' own grid of indices: index i is our entry k = i + 1."""
    times = torch.cat([(scheduler.timesteps.double() + 1) / T, torch.zeros(1, dtype=torch.float64)])
    generator = torch.Generator().manual_seed(1)

    def noise():
        return torch.randn(x_t.shape, generator=generator, dtype=torch.float64)

    return sampler(NetworkDenoiser(FakeNetwork(), schedule, prediction), x_t, noise=noise, times=times)


def start():
    return torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.manual_seed(0))


@pytest.mark.parametrize("steps", [50, 200])
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_ancestral_is_ddpm(name, prediction, clip, variance, steps):
    schedule = SCHEDULES[name]()
    scheduler = DDPMScheduler(
        T,
        beta_schedule=name,
        variance_type=f"fixed_{variance}",
        clip_sample=clip,
        prediction_type=prediction,
    )
    in_float64(scheduler, schedule).set_timesteps(steps)
    theirs = their_samples(scheduler, start())
    sampler = Ancestral(steps, clip=clip, variance=variance)
    ours = our_samples(sampler, schedule, PREDICTIONS[prediction](), scheduler, start())
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [50, 200])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_is_ddim(name, prediction, clip, eta, steps):
    schedule = SCHEDULES[name]()
    betas = schedule.betas.tolist()  # its DDIM knows no sigmoid betas by name
    scheduler = DDIMScheduler(T, trained_betas=betas, clip_sample=clip, prediction_type=prediction)
    in_float64(scheduler, schedule).set_timesteps(steps)
    theirs = their_samples(scheduler, start(), eta=eta, use_clipped_model_output=clip)
    sampler = DDIM(steps, clip=clip, eta=eta)
    ours = our_samples(sampler, schedule, PREDICTIONS[prediction](), scheduler, start())
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_whole_chain_is_theirs(name):
    """Every one of its steps."""
    schedule = SCHEDULES[name]()
    ddpm = in_float64(DDPMScheduler(T, beta_schedule=name, clip_sample=True), schedule)
    ddpm.set_timesteps(T)
    ours = our_samples(Ancestral(T, clip=True), schedule, Eps(), ddpm, start())
    torch.testing.assert_close(ours, their_samples(ddpm, start()), atol=1e-5, rtol=1e-5)


MULTISTEP = {
    "dpmpp_2m": (DPMpp2M, DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_sde": (
        partial(DPMpp2M, eta=1.0),
        DPMSolverMultistepScheduler,
        {"algorithm_type": "sde-dpmsolver++"},
    ),
    "unipc": (UniPC, UniPCMultistepScheduler, {"solver_order": 2, "solver_type": "bh2"}),
}


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("sampler", MULTISTEP)
def test_multistep_samplers_are_theirs(sampler, name, prediction, steps):
    ours, theirs, options = MULTISTEP[sampler]
    schedule = SCHEDULES[name]()
    options = {"prediction_type": prediction, "timestep_spacing": "trailing", **options}
    scheduler = in_float64(theirs(T, beta_schedule=name, **options), schedule)
    scheduler.set_timesteps(steps)
    sigmas = (1 / scheduler.alphas_cumprod - 1).sqrt()[scheduler.timesteps]
    scheduler.sigmas = torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])
    x_t = start()
    generator = torch.Generator().manual_seed(1)
    fresh = sampler == "dpmpp_2m_sde"
    for i in scheduler.timesteps:
        output = FakeNetwork()(x_t, i.double().expand(len(x_t)))
        noise = torch.randn(x_t.shape, generator=generator, dtype=torch.float64) if fresh else None
        x_t = scheduler.step(output, i, x_t, **({"variance_noise": noise} if fresh else {})).prev_sample
    ours = our_samples(ours(steps, clip=False), schedule, PREDICTIONS[prediction](), scheduler, start())
    torch.testing.assert_close(ours, x_t, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 10, 50, 250, T])
def test_our_grid_is_their_trailing_one(steps):
    scheduler = DDPMScheduler(T, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    schedule = Linear()
    assert (
        schedule.time_input(spaced("uniform", schedule, steps)[:-1]).tolist() == scheduler.timesteps.tolist()
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_noising_is_add_noise(name):
    schedule = SCHEDULES[name]()
    scheduler = in_float64(DDPMScheduler(T, beta_schedule=name), schedule)
    x, eps = start(), start().flip(0)
    i = torch.tensor([0, 999])
    alpha, sigma = schedule.alpha_sigma((i.double() + 1) / T, x)
    torch.testing.assert_close(alpha * x + sigma * eps, scheduler.add_noise(x, eps, i), atol=1e-9, rtol=0)


@pytest.mark.parametrize("steps", [1, 10, 50])
@pytest.mark.parametrize(
    "sampler, scheduler",
    [(DDIM, FlowMatchEulerDiscreteScheduler), (Heun, FlowMatchHeunDiscreteScheduler)],
)
def test_flow_is_flow_match(sampler, scheduler, steps):
    """Between the same times; diffusers' sigma is our t, its timestep and our time input 1000 times it."""
    theirs = scheduler()
    theirs.sigma_max = Flow.t_max  # theirs begins at 1 itself
    theirs.set_timesteps(steps)
    times = torch.tensor([*dict.fromkeys(theirs.sigmas.tolist())], dtype=torch.float64)
    ours = sampler(steps, clip=False)(
        NetworkDenoiser(FakeNetwork(), Flow(), Velocity()), start(), times=times
    )
    x_t = start()
    for timestep in theirs.timesteps:
        output = FakeNetwork()(x_t, timestep.double().expand(len(x_t)))
        x_t = theirs.step(output, timestep, x_t).prev_sample
    torch.testing.assert_close(ours, x_t, atol=1e-5, rtol=1e-5)


EDM = {
    "euler": (DDIM, EDMEulerScheduler, {}),
    "dpmpp_2m": (DPMpp2M, EDMDPMSolverMultistepScheduler, {}),
    "dpmpp_2m_sde": (
        partial(DPMpp2M, eta=1.0),
        EDMDPMSolverMultistepScheduler,
        {"algorithm_type": "sde-dpmsolver++"},
    ),
}


@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize("sampler", EDM)
def test_karras_samplers_are_theirs(sampler, steps):
    """Their grid, preconditioning and what they tell the network; then their steps."""
    ours, theirs, options = EDM[sampler]
    schedule = VarianceExploding(told="log_sigma")
    times = spaced("karras", schedule, steps)
    scheduler = theirs(sigma_data=0.5, **options)
    scheduler.set_timesteps(steps)
    torch.testing.assert_close(scheduler.sigmas.double(), schedule.sigma(times), atol=0, rtol=1e-5)
    scheduler.sigmas = schedule.sigma(times)  # in float64
    scheduler.timesteps = schedule.time_input(times[:-1])
    x_t = 80 * start()
    generator = torch.Generator().manual_seed(1)
    fresh = {"generator": generator} if sampler == "dpmpp_2m_sde" else {}
    for c_noise in scheduler.timesteps:
        shown = scheduler.scale_model_input(x_t, c_noise)
        output = FakeNetwork()(shown, c_noise.expand(len(x_t)))
        x_t = scheduler.step(output, c_noise, x_t, **fresh).prev_sample
    generator = torch.Generator().manual_seed(1)
    x = ours(steps, clip=False)(
        NetworkDenoiser(FakeNetwork(), schedule, Edm(0.5)),
        80 * start(),
        noise=lambda: torch.randn(x_t.shape, generator=generator, dtype=torch.float64),
        times=times,
    )
    torch.testing.assert_close(x, x_t, atol=1e-5, rtol=0)
