"""Averages of any length, made of a few."""

import numpy as np
import pytest
import torch
from commands import TINY

from lit_diffusion.averages import combination, exponent, kept_share, products, rebuilt
from lit_diffusion.checkpoint import load_denoiser, read_checkpoint
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.weights import read_weights
from lit_diffusion.loading import load
from lit_diffusion.train.run import train


@pytest.mark.parametrize("length", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_the_exponent_gives_the_length(length):
    """By the profile itself: its standard deviation, in shares of the training."""
    gamma = exponent(length, "ema")
    assert (gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5) == pytest.approx(length, rel=1e-9)
    s = (np.arange(200_000) + 0.5) / 200_000
    p = (gamma + 1) * s**gamma / len(s)
    assert ((p * s**2).sum() - (p * s).sum() ** 2) ** 0.5 == pytest.approx(length, rel=1e-3)


def test_shares_are_the_profile():
    """What is left of each step's weights after all is in proportion to a power of the step."""
    gamma, steps = 3.0, 2000
    shares = np.zeros(steps)
    for t in range(1, steps + 1):
        shares *= kept_share(t, gamma)
        shares[t - 1] += 1 - kept_share(t, gamma)
    assert shares.sum() == pytest.approx(1)
    expected = (np.arange(1, steps + 1) / steps) ** gamma * (gamma + 1) / steps
    np.testing.assert_allclose(shares[100:], expected[100:], rtol=0.02)


def test_products_are_integrals():
    t, g, u, h = (np.array([value]) for value in (300.0, 2.5, 500.0, 6.0))
    s = np.linspace(0, 500, 2_000_001)
    first = np.where(s <= 300, 3.5 * s**2.5 / 300**3.5, 0)
    second = 7.0 * s**6 / 500**7
    expected = np.trapezoid(first * second, s)
    for a, b in (((t, g), (u, h)), ((u, h), (t, g))):
        assert products(*a, *b)[0, 0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15, 0.2])
def test_a_length_that_was_not_kept_is_near_to_the_average_itself(length):
    """Of weights that wander: the difference is a few percent of how far they do."""
    generator = torch.Generator().manual_seed(0)
    walk = torch.randn(2000, 50, dtype=torch.float64, generator=generator).cumsum(0) / 2000**0.5
    gammas = [exponent(known, "") for known in (0.05, 0.1)]
    wanted = exponent(length, "")
    averages, direct, kept = [walk[0].clone(), walk[0].clone()], walk[0].clone(), []
    for t, weights in enumerate(walk, start=1):
        direct.lerp_(weights, 1 - kept_share(t, wanted))
        for gamma, average in zip(gammas, averages, strict=True):
            average.lerp_(weights, 1 - kept_share(t, gamma))
            if t % 125 == 0:
                kept.append((t, gamma, average.clone()))
    shares, lacking = combination([t for t, _, _ in kept], [g for _, g, _ in kept], 2000, wanted)
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    made = sum(share * average for share, (_, _, average) in zip(shares, kept, strict=True))
    assert (made - direct).std() < 0.02 * walk[-1].std()
    assert lacking < 0.05


RUN = ["debug=limit", "callbacks=power_ema", "callbacks.samples=null", *TINY["small_unet"]]
EIGHT = ["trainer.limit_train_batches=8", "callbacks.power_ema.every_n_train_steps=2", "optimizer.lr=0.05"]


@pytest.fixture
def run(config, tmp_path):
    """The last checkpoint of eight steps whose averages were kept every two."""
    train(config(*RUN, *EIGHT))
    return tmp_path / "checkpoints" / "last.ckpt"


def test_a_run_keeps_two_averages_and_samples_with_any(run, config):
    folder = run.parent.parent / "averages"
    assert sorted(path.name[:8] for path in folder.iterdir()) == [f"{k:08d}" for k in (2, 4, 6, 8)]
    weights, metadata = read_weights(folder / "00000008.safetensors")
    assert metadata["lengths"] == [0.05, 0.1]
    own = load_denoiser(read_checkpoint(run)).network.state_dict()
    again = load(config(f"ckpt={run}", "ema=0.1", config_name="sample"))
    made = again.unguided.network.state_dict()
    for name, weight in made.items():
        torch.testing.assert_close(weight, weights[f"1/{name}"], atol=2e-3, rtol=0)
    assert not all(torch.equal(made[name], own[name]) for name in own)
    assert again.identity.endswith("average 0.1")


def test_a_run_is_guided_away_from_its_own_earlier_average(run, config, caplog):
    caplog.set_level("INFO")
    options = ["guidance=autoguidance", "guidance.scale=2", f"guidance.bad={run}", "guidance.bad_ema=0.1"]
    last, earlier = (
        load(config(f"ckpt={run}", *options, f"guidance.bad_step={step}", config_name="sample"))
        for step in (8, 5)
    )
    assert "the average of length 0.1 is that of step 4, the last that was kept up to step 5" in caplog.text
    weights, _ = read_weights(run.parent.parent / "averages" / "00000004.safetensors")
    for name, weight in earlier.worse.denoiser.network.state_dict().items():
        torch.testing.assert_close(weight, weights[f"1/{name}"], atol=2e-3, rtol=0)
    x_t, t = torch.randn(2, 1, 28, 28), torch.full((2,), 0.5)
    assert not torch.equal(last.denoiser(x_t, t).x, earlier.denoiser(x_t, t).x)


def test_a_resumed_run_keeps_the_same_averages(run, config, tmp_path):
    train(config(*RUN, *EIGHT, "trainer.max_epochs=2", f"ckpt={run}", f"out={tmp_path}/on"))
    train(config(*RUN, *EIGHT, "trainer.max_epochs=2", f"out={tmp_path}/straight"))
    resumed, straight = (sorted((tmp_path / name / "averages").iterdir()) for name in ("on", "straight"))
    assert [path.name for path in resumed] == [path.name for path in straight] and len(resumed) == 8
    assert [path.read_bytes() for path in resumed] == [path.read_bytes() for path in straight]
    with pytest.raises(ConfigError, match=r"lengths is \[0.05, 0.2\], but the run began with \[0.05, 0.1\]"):
        other = ["callbacks.power_ema.lengths=[0.05,0.2]", f"out={tmp_path}/other"]
        train(config(*RUN, *EIGHT, "trainer.max_epochs=2", f"ckpt={run}", *other))


@pytest.mark.parametrize(
    "options, says",
    [
        (["ema=0.5"], "ema is 0.5"),
        (["ema=0.0001"], "ema is 0.0001"),
        (["ema=long"], "ema is long"),
        (["ema=0.01"], "which the 4 files in"),
    ],
)
def test_mistakes_are_refused(run, config, options, says):
    with pytest.raises(ConfigError, match=says):
        load(config(f"ckpt={run}", *options, config_name="sample"))


def test_what_cannot_be_averaged_is_refused(run, config, tmp_path):
    averages = run.parent.parent / "averages"
    notes, damaged = averages / "notes.safetensors", averages / "00000004.safetensors"
    notes.write_bytes(damaged.read_bytes())
    with pytest.raises(ConfigError, match=r"notes\.safetensors is no file of averages"):
        load(config(f"ckpt={run}", "ema=0.1", config_name="sample"))
    with pytest.raises(ConfigError, match=r"notes\.safetensors is no file of averages"):
        train(config(*RUN, *EIGHT, "trainer.max_epochs=2", f"ckpt={run}", f"out={tmp_path}/on"))
    notes.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="is no file of averages"):
        load(config(f"ckpt={run}", "ema=0.1", config_name="sample"))
    with pytest.raises(ConfigError, match="the checkpoint of a run with callbacks=power_ema"):
        rebuilt(tmp_path / "nowhere", 8, 0.1)
    for option in ("lengths=[0.1,0.1]", "lengths=[0.1,2]", "every_n_train_steps=0"):
        with pytest.raises(ConfigError, match=r"callbacks\.power_ema"):
            train(config(*RUN, f"callbacks.power_ema.{option}"))
