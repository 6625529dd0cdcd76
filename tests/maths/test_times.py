import pytest
import torch

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.schedules import Cosine, Flow, Linear, SingleStep, VarianceExploding
from lit_diffusion.times import Importance, LogitNormal, LogNormal, Uniform

SHARES = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
NORMAL = torch.special.ndtri(SHARES)


def drawn(times, schedule, n=20_000):
    return times.draw(schedule, n, torch.Generator().manual_seed(0)).t.double()


def test_uniform_times():
    torch.testing.assert_close(drawn(Uniform(), Flow()).quantile(SHARES), SHARES, atol=0.012, rtol=0)
    t = drawn(Uniform(), Linear(steps=4), 1000)
    assert t.unique().tolist() == [0.25, 0.5, 0.75, 1]
    assert abs(t.mean() - 0.625) < 0.04


def test_logit_normal_times():
    logits = drawn(LogitNormal(mean=-0.5, std=0.8), Flow()).logit().quantile(SHARES)
    torch.testing.assert_close(logits, -0.5 + 0.8 * NORMAL, atol=0.05, rtol=0)
    assert drawn(LogitNormal(std=10.0), Flow()).min() >= Flow.t_min  # none that the network can't be asked


@pytest.mark.parametrize("schedule", [VarianceExploding, Flow, Cosine])
def test_log_normal_noise_levels(schedule):
    """The same noise levels beside an image of weight 1, whatever the path."""
    t = drawn(LogNormal(), schedule())
    log_noise = (-schedule().log_snr(t) / 2).quantile(SHARES)
    torch.testing.assert_close(log_noise, -1.2 + 1.2 * NORMAL, atol=0.05, rtol=0)


def loss_at(t):
    return 0.1 + 4 * t.float() ** 2


@pytest.mark.parametrize("schedule", [Flow, Linear, VarianceExploding])
def test_times_by_their_losses_keep_the_mean_and_vary_less(schedule):
    schedule, times = schedule(), Importance(uniform_share=0.05)
    generator = torch.Generator().manual_seed(0)
    uniform = loss_at(times.times(schedule, 50_000, generator))
    first = times.draw(schedule, 1000, generator)
    assert (first.weight == 1).all()  # no loss is known
    for _ in range(20):
        t = times.times(schedule, 5000, generator)
        times.learn(schedule, t, loss_at(t))
    t, weight = times.draw(schedule, 50_000, generator)
    weighted = weight * loss_at(t)
    assert abs(weighted.mean() - uniform.mean()) < 0.01 * uniform.mean()
    assert weighted.std() < 0.1 * uniform.std()


def test_importance_is_kept_with_the_weights():
    times, other = Importance(bins=4), Importance(bins=4)
    times.learn(Flow(), torch.tensor([0.1, 0.3, 0.6, 0.9]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert times.squares.tolist() == [1, 4, 9, 16]
    times.learn(Flow(), torch.tensor([0.9, 0.95]), torch.tensor([0.0, 2.0]))
    assert times.squares.tolist() == [1, 4, 9, pytest.approx(0.99 * 16 + 0.01 * 2)]
    other.load_state_dict(times.state_dict())
    assert torch.equal(times.probabilities(), other.probabilities())
    roots = times.squares.sqrt()
    torch.testing.assert_close(times.probabilities(), 0.9 * roots / roots.sum() + 0.1 / 4)


def test_importance_learns_in_float32_in_a_network_of_half_precision():
    times = Importance(bins=2, decay=0.999).to(torch.bfloat16)
    t, default = torch.tensor([0.2, 0.8]), torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)  # as Lightning has it within a training step
        times.learn(Flow(), t, torch.tensor([1.0, 2.0], dtype=torch.bfloat16))
        times.learn(Flow(), t, torch.tensor([2.0, 1.0], dtype=torch.bfloat16))
    finally:
        torch.set_default_dtype(default)
    torch.testing.assert_close(times.squares, torch.tensor([1.003, 3.997]))


def test_importance_learns_nothing_of_losses_that_are_not_finite():
    times = Importance(bins=2)
    times.learn(Flow(), torch.tensor([0.2, 0.3, 0.8, 0.9]), torch.tensor([1.0, torch.nan, 2.0, torch.inf]))
    assert times.squares.tolist() == [1, 4]


def test_more_bins_than_noise_levels_are_refused():
    for schedule in (Linear(steps=20), SingleStep(0.0, 1.0)):
        with pytest.raises(ConfigError, match="noise levels: choose fewer bins"):
            Importance().check(schedule)
    for schedule in (Linear(), Flow(), VarianceExploding()):
        Importance().check(schedule)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: LogitNormal(std=0.0),
        lambda: LogNormal(std=-1.0),
        lambda: LogNormal(mean=float("nan")),
        lambda: Importance(bins=1),
        lambda: Importance(decay=1.0),
        lambda: Importance(uniform_share=0.0),
    ],
)
def test_mistakes_are_refused(mistake):
    with pytest.raises(ConfigError):
        mistake()
