import math

import pytest
import torch

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.samplers.grids import GRIDS, spaced
from lit_diffusion.schedules import (
    Cosine,
    DiscreteSchedule,
    Flow,
    Linear,
    Sigmoid,
    SingleStep,
    VarianceExploding,
)

SCHEDULES = [Linear, Cosine, Sigmoid]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ends_and_monotony(schedule):
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    alpha, sigma = schedule().alpha(t), schedule().sigma(t)
    assert alpha[0] == 1
    assert sigma[0] == 0
    assert alpha[-1] < 0.1
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() > 0).all()
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))


def test_cosine_follows_the_published_formula_up_to_its_clipped_end():
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    f = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
    ours = Cosine().alpha(t) ** 2
    torch.testing.assert_close(ours[:-1], (f / f[0])[:-1], atol=1e-12, rtol=0)
    assert Cosine().betas[-1] == 0.999


def test_betas_in_half_the_digits_make_a_table_of_all():
    betas = torch.linspace(1e-4, 0.02, 1000)
    alpha_bar = torch.cumprod(1 - betas.double(), 0)
    assert torch.equal(DiscreteSchedule(betas).alpha_bar[1:], alpha_bar)


def test_tutorial_table():
    """Tutorial 1 indexes its tables with i = 0 .. T-1; entry k = i + 1 of ours."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    i = torch.tensor([0, 1, 499, 999])
    t = (i + 1) / 1000
    torch.testing.assert_close(Linear().alpha(t).double() ** 2, alpha_bar[i], atol=1e-6, rtol=0)
    assert Linear().time_input(t).tolist() == i.tolist()


def test_log_snr():
    t = torch.tensor([0.25, 0.5], dtype=torch.float64)
    schedule = Linear()
    expected = (schedule.alpha(t) ** 2 / schedule.sigma(t) ** 2).log()
    torch.testing.assert_close(schedule.log_snr(t), expected)


def test_grid_of_times():
    assert spaced("uniform", Linear(), 4).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert spaced("uniform", Linear(steps=10), 4).tolist() == [
        1,
        0.8,
        0.5,
        0.2,
        0,
    ]  # entries of the table alone
    assert len(spaced("uniform", Linear(), 1000).unique()) == 1001


def test_float32_times_hit_their_entries():
    k = torch.arange(1001)
    assert torch.equal(Linear().time_input(k / 1000), (k - 1).float())


def test_shares_of_the_path():
    share = torch.tensor([0, 0.2499, 0.25, 0.5, 0.999, 1])
    assert Linear(steps=4).at_share(share).tolist() == [0.25, 0.25, 0.5, 0.75, 1, 1]
    assert Flow().at_share(share)[[0, 2, -1]].tolist() == pytest.approx([0.001, 0.25, 0.999])
    assert SingleStep(1.0, 1.0).at_share(share).tolist() == [1] * 6
    explodes = VarianceExploding(sigma_min=0.5, sigma_max=32, rho=3)
    assert explodes.at_share(share)[[0, 3, -1]].tolist() == pytest.approx([0.25, 0.625, 1])


def test_float32_results_are_float64_ones_rounded():
    t = torch.linspace(0, 1, 1001)
    torch.testing.assert_close(Cosine().alpha(t).double(), Cosine().alpha(t.double()), atol=1e-7, rtol=1e-6)


def test_flow_is_a_straight_line_a_hair_short_of_pure_noise():
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    assert Flow().alpha(t).tolist() == [1, 0.75, 0]
    assert Flow().sigma(t).tolist() == [0, 0.25, 1]
    assert Flow().time_input(t).tolist() == [0, 250, 1000]
    assert spaced("uniform", Flow(), 3).tolist() == pytest.approx([0.999, 0.666, 0.333, 0])
    assert Flow().inside(t).tolist() == [0.001, 0.25, 0.999]


@pytest.mark.parametrize("schedule", [*SCHEDULES, Flow, VarianceExploding])
def test_at_log_snr_is_its_inverse(schedule):
    schedule = schedule()
    t = torch.tensor([schedule.t_min, 0.02, 0.5, 0.77, schedule.t_max], dtype=torch.float64)
    t = t.clamp(min=schedule.t_min)
    torch.testing.assert_close(schedule.at_log_snr(schedule.log_snr(t)), t)


@pytest.mark.parametrize("schedule", [*SCHEDULES, Flow, VarianceExploding])
def test_everything_stays_on_the_device_of_the_times(schedule):
    """No GPU is needed to see it: the meta device refuses a tensor of the CPU, too."""
    schedule, t = schedule(), torch.full((3,), 0.5, device="meta")
    for function in (schedule.at_log_snr, schedule.at_share, schedule.inside, schedule.time_input):
        assert function(t).device.type == "meta"


@pytest.mark.parametrize("schedule", [*SCHEDULES, Flow, VarianceExploding])
@pytest.mark.parametrize("grid", GRIDS)
def test_grids_fall_from_pure_noise_to_the_image(grid, schedule):
    schedule = schedule()
    for steps in (1, 2, 7, 50, 1000):
        times = spaced(grid, schedule, steps)
        assert len(times) == steps + 1
        assert (times.diff() < 0).all()
        assert (times[0], times[-1]) == (pytest.approx(schedule.t_max), 0)
        if isinstance(schedule, DiscreteSchedule):
            torch.testing.assert_close(times * 1000, (times * 1000).round())


def test_noise_explodes_by_karras_formula():
    schedule, steps = VarianceExploding(), 18
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert schedule.alpha(t).tolist() == [1] * 11
    assert (schedule.sigma(t)[0], schedule.sigma(t)[-1]) == (0, 80)
    i = torch.arange(steps, dtype=torch.float64)
    published = (80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    for grid in ("uniform", "karras"):
        sigma = schedule.sigma(spaced(grid, schedule, steps))
        torch.testing.assert_close(sigma[:-1], published)
        assert sigma[-1] == 0
    told = VarianceExploding(told="log_sigma").time_input(torch.tensor([1.0]))
    assert told.item() == pytest.approx(math.log(80) / 4)


@pytest.mark.parametrize(
    "grid, coordinate",
    {
        "uniform": lambda schedule, t: t,
        "quadratic": lambda schedule, t: t.sqrt(),
        "log_snr": lambda schedule, t: schedule.log_snr(t),
        "karras": lambda schedule, t: (schedule.sigma(t) / schedule.alpha(t)) ** (1 / 7),
    }.items(),
)
def test_grids_are_even_in_what_they_are_named_after(grid, coordinate):
    gaps = coordinate(Flow(), GRIDS[grid](Flow(), 9)[:-1]).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(8))
    if grid != "uniform":
        assert GRIDS[grid](Flow(), 9)[-2] == pytest.approx(Flow.t_min)


def test_single_step_has_one_level():
    schedule = SingleStep(alpha_end=1.0, sigma_end=0.5)
    t = schedule.at_share(torch.linspace(0, 1, 5))
    assert t.tolist() == [1] * 5
    assert schedule.alpha(t).tolist() == [1] * 5
    assert schedule.sigma(t).tolist() == [0.5] * 5
    assert spaced("uniform", SingleStep(alpha_end=0.0, sigma_end=1.0), 1).tolist() == [1, 0]


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: spaced("uniform", Linear(), 1001),
        lambda: Linear(steps=0),
        lambda: Linear(beta_start=0.0),
        lambda: Linear(beta_end=1.0),
        lambda: Sigmoid(beta_start=-1e-4),
        lambda: VarianceExploding(sigma_min=2.0, sigma_max=1.0),
        lambda: VarianceExploding(sigma_min=0.0),
        lambda: VarianceExploding(rho=0.0),
        lambda: spaced("uniform", SingleStep(alpha_end=0.0, sigma_end=1.0), 2),
        lambda: spaced("uniform", SingleStep(alpha_end=1.0, sigma_end=1.0), 1),
        lambda: SingleStep(alpha_end=-0.1, sigma_end=1.0),
        lambda: SingleStep(alpha_end=1.0, sigma_end=0.0),
        lambda: DiscreteSchedule(torch.tensor([0.1, 1.5])),
    ],
)
def test_mistakes_are_refused(mistake):
    with pytest.raises(ConfigError):
        mistake()
