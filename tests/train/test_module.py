import math

import pytest
import torch
from commands import TINY

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.lr_schedules import exponential_decay
from lit_diffusion.common.rng import key_to_seed
from lit_diffusion.train.binned_mean import BinnedMean
from lit_diffusion.train.module import LitDiffusion
from lit_diffusion.train.run import build_module, train


class Trainer:
    """As much of a trainer as a step asks about."""

    accumulate_grad_batches = 1
    num_training_batches = 8

    def __init__(self, world_size=1):
        self.world_size = world_size


def attached(module: LitDiffusion, rank=0, world_size=1, step=0) -> LitDiffusion:
    class At(type(module)):
        global_rank = rank
        global_step = step
        trainer = Trainer(world_size)

    module.__class__ = At
    return module


def digits(n=8):
    return torch.rand(n, 1, 28, 28, generator=torch.manual_seed(0)) * 2 - 1, torch.arange(n) % 10


def test_loss_is_the_tutorials(config):
    """Mean squared error between the noise and its prediction, at index i."""
    module = build_module(config("schedule=linear", "prediction=eps", *TINY["small_unet"]))
    torch.nn.init.normal_(module.denoiser.network.conv_out.weight)
    x, _ = digits(3)
    eps, i = torch.randn(3, 1, 28, 28, generator=torch.manual_seed(1)), torch.tensor([0, 500, 999])
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)[i].reshape(-1, 1, 1, 1)
    predicted = module.denoiser.network(alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * eps, i.float())
    expected = torch.nn.functional.mse_loss(predicted, eps)
    torch.testing.assert_close(module.losses(x, None, (i + 1) / 1000, eps).mean(), expected)


def test_importance_learns_from_errors_and_not_from_the_learned_weighting_itself(config, monkeypatch):
    """Divided by exp(u) they are; u, which is added to the loss, and may be below 0, says nothing of them."""
    monkeypatch.setattr(LitDiffusion, "all_gather", lambda self, tensors: tensors)
    squares = []
    for u in (0.0, -3.0):
        choices = ["times=importance", "weighting=learned", "weighting.base.sigma_data=0.5"]
        torch.manual_seed(0)
        module = attached(build_module(config(*choices, *TINY["small_unet"])))
        module.weighting.u.bias.data.fill_(u)
        module.training_step(digits(), 0)
        squares.append(module.times.squares)
    assert squares[0].any()
    torch.testing.assert_close(squares[1], squares[0] * math.exp(6))


def test_fixed_noise_has_the_same_times_however_they_are_drawn(config, monkeypatch):
    monkeypatch.setattr(LitDiffusion, "all_gather", lambda self, tensors: tensors)
    choices = ["times=importance", "times.bins=2", "module.fixed_noise=true"]
    module = attached(build_module(config(*choices, *TINY["small_unet"])))
    drawn = []
    for _ in range(3):
        module.training_step(digits(), 0)
        drawn.append(module._draw(digits()[0], *module._step_key(0))[0].t)
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[1], drawn[2])
    assert not module.times.squares.any()


@pytest.mark.parametrize(
    "prediction, weight",
    [
        ("eps", lambda snr: snr.clamp(max=5) / snr),
        ("x", lambda snr: snr.clamp(max=5)),
        ("v", lambda snr: snr.clamp(max=5) / (snr + 1)),
    ],
)
def test_min_snr_weights_are_the_papers(config, prediction, weight):
    plain, weighted = (
        build_module(
            config(
                "schedule=cosine",
                f"prediction={prediction}",
                f"weighting={weighting}",
                *TINY["small_unet"],
            )
        )
        for weighting in ("none", "min_snr")
    )
    x, _ = digits(4)
    eps, t = x.flip(0), torch.tensor([0.01, 0.2, 0.5, 0.9])
    weighted.load_state_dict(plain.state_dict())
    snr = plain.denoiser.schedule.log_snr(t).exp()
    expected = plain.losses(x, None, t, eps) * weight(snr)
    torch.testing.assert_close(weighted.losses(x, None, t, eps), expected, rtol=1e-4, atol=1e-7)


def flat(drawn):
    """What a step draws: times, noise and uniform numbers."""
    (t, _), eps, uniform = drawn
    return t, eps, uniform


def test_processes_draw_shares_of_one_global_batch(config):
    module = build_module(config(*TINY["small_unet"]))
    x, _ = digits(8)
    whole = attached(module)._draw(x, 0, 7)
    halves = [attached(module, rank, 2)._draw(x[:4], 0, 7) for rank in (0, 1)]
    for drawn, *parts in zip(flat(whole), *map(flat, halves), strict=True):
        assert torch.equal(drawn, torch.stack(parts, dim=1).flatten(0, 1))
    other = attached(module)._draw(x, 0, 8)
    assert not any(torch.equal(a, b) for a, b in zip(flat(whole), flat(other), strict=True))


@pytest.mark.parametrize("world_size", [2, 3])
def test_validation_draws_belong_to_the_images(config, world_size):
    """However unevenly the last batch falls to the processes."""
    module = build_module(config(*TINY["small_unet"]))
    x, _ = digits(7)
    whole = attached(module)._draw_fixed(x)
    for rank in range(world_size):
        share = attached(module, rank, world_size)._draw_fixed(x[rank::world_size])
        assert all(torch.equal(a, b[rank::world_size]) for a, b in zip(share, whole, strict=True))


def test_draws_do_not_depend_on_the_precision(config):
    """True half precision changes torch's default dtype around a step."""
    module = attached(build_module(config(*TINY["small_unet"])))
    x, _ = digits(64)
    expected = module._draw(x, 0, 0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        drawn = module._draw(x, 0, 0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(flat(drawn), flat(expected), strict=True))


def test_a_step_pairs_images_and_noise_by_the_coupling(config):
    """The noise that the network is shown is the nearest in the batch, and the target is made of it."""
    module = attached(build_module(config("coupling=minibatch_ot", "prediction=eps", *TINY["small_unet"])))
    x, y = digits(8)
    drawn = module._draw(x, 0, 0)
    seen = []
    module.losses = lambda x, y, t, eps, told: seen.append(eps) or torch.zeros(len(x), requires_grad=True)
    module.training_step((x, y), 0)
    assert torch.equal(seen[0], module.coupling(x, y, drawn[1])[2])
    assert not torch.equal(seen[0], drawn[1])


def test_keys_do_not_collide():
    keys = [
        (0,),
        (0, 0),
        (0, 0, 0),
        (1,),
        (0, 1),
        (1, 0),
        (0, 1, 0),
        (2**32, 5),
        (0, 1, 5),
        ("a", 0),
        (0, "a"),
    ]
    assert len({key_to_seed(*key) for key in keys}) == len(keys)


def test_dropout_of_labels_is_the_share_asked_for(config):
    cfg = config("model.num_classes=10", "module.label_dropout=0.3", *TINY["small_unet"])
    module = attached(build_module(cfg))
    seen = []
    module.losses = lambda x, y, *_: seen.append(y) or torch.zeros(len(x))
    x, y = digits(2000)
    module.training_step((x, y), 0)
    module.validation_step((x, y), 0)
    train_labels, val_labels = seen
    assert abs((train_labels == 10).float().mean() - 0.3) < 0.04
    assert torch.equal(train_labels[train_labels < 10], y[train_labels < 10])
    assert torch.equal(val_labels, y)


def test_bins():
    metric = BinnedMean(10)
    metric.update(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.001, 0.1, 1.0]))
    metric.update(torch.tensor([7.0]), torch.tensor([0.95]))
    means = {k: float(v) for k, v in metric.compute().items()}
    assert {k: v for k, v in means.items() if v == v} == {"mean": 4, "0.0-0.1": 2, "0.9-1.0": 6}
    assert len(means) == 11


def test_validation_is_the_same_every_epoch(config):
    """With a learning rate of 0 nothing but the noise and times could change it."""
    cfg = config(
        "debug=limit",
        "optimizer.lr=0",
        "trainer.max_epochs=3",
        "callbacks.samples=null",
        *TINY["small_unet"],
    )
    losses = []

    def spy(self, stage, metric):
        if stage == "val":
            losses.append({k: float(v) for k, v in metric.compute().items()})
        return original(self, stage, metric)

    original = LitDiffusion._log_losses
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LitDiffusion, "_log_losses", spy)
        train(cfg)
    assert len(losses) == 3
    for later in losses[1:]:  # a bin that no image met has NaN
        assert later == pytest.approx(losses[0], rel=0, abs=0, nan_ok=True)


def learning_rates(config, *overrides) -> list[float]:
    cfg = config("debug=limit", "callbacks.samples=null", "optimizer.lr=1", *overrides, *TINY["small_unet"])
    rates = []

    def record(self, *_):
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LitDiffusion, "on_before_optimizer_step", record)
        train(cfg)
    return rates


def test_learning_rate_per_epoch(config):
    rates = learning_rates(config, "lr_scheduler=exponential", "trainer.max_epochs=2")
    assert rates == pytest.approx([1, 1, 1, 0.9, 0.9, 0.9])


def test_learning_rate_per_step_knows_the_runs_length(config):
    half = ["lr_scheduler=warmup_cosine", "lr_scheduler.scheduler.warmup=0.5", "trainer.max_epochs=2"]
    assert learning_rates(config, *half) == pytest.approx([1 / 3, 2 / 3, 1, 1, 0.75, 0.25])
    accumulated = learning_rates(config, *half, "trainer.accumulate_grad_batches=2")
    assert accumulated[::2] == pytest.approx([0.5, 1.0, 0.5][: len(accumulated[::2])])


@pytest.mark.parametrize(
    "length", [["trainer.max_epochs=2"], ["trainer.max_epochs=-1", "trainer.max_steps=6"]]
)
def test_decay_per_epoch_ends_with_the_run(config, length):
    """gamma = 0.1^(1 / epochs): two epochs of three steps, however the length is told."""
    rates = learning_rates(config, "lr_scheduler=exponential_decay", *length)
    assert rates == pytest.approx([1, 1, 1, 0.1**0.5, 0.1**0.5, 0.1**0.5])


def test_decay_of_a_longer_resumed_run_still_ends_at_its_share():
    def made(epochs):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return exponential_decay(optimizer, epochs)

    short, longer = made(2), made(4)
    short.step()
    longer.load_state_dict(short.state_dict())
    for _ in range(3):
        longer.step()
    assert longer.get_last_lr() == pytest.approx([0.1])


def test_a_run_without_end_has_no_schedule_that_ends_with_it(config):
    endless = ["trainer.max_epochs=-1", "lr_scheduler=warmup_cosine"]
    with pytest.raises(ConfigError, match="are both -1"):
        learning_rates(config, *endless)


def test_torchs_own_schedules_work(config):
    one_cycle = [
        "lr_scheduler=exponential",
        "lr_scheduler.scheduler._target_=torch.optim.lr_scheduler.OneCycleLR",
        "~lr_scheduler.scheduler.gamma",
        "+lr_scheduler.scheduler.max_lr=1.0",
        "lr_scheduler.interval=step",
    ]
    rates = learning_rates(config, *one_cycle)
    assert len(rates) == 3
    assert 0.9 < max(rates) <= 1
    assert rates[-1] < 0.01
    assert learning_rates(config, *one_cycle, "+lr_scheduler.scheduler.total_steps=100")[-1] > 0.03


@pytest.mark.parametrize("override", ["module.label_dropout=1.5", "callbacks.ema.decay=1.0", "seed=-1"])
def test_mistakes_are_refused(config, override):
    with pytest.raises(Exception) as error:
        train(config("debug=limit", override, *TINY["small_unet"]))
    mistake = error.value if isinstance(error.value, ConfigError) else error.value.__cause__
    assert isinstance(mistake, ConfigError)
    assert override.split("=")[0].split(".")[-1] in str(mistake)


def test_validation_draws_are_other_ones_in_every_batch(config):
    """Images of two batches share neither their noise nor their times."""
    module = attached(build_module(config(*TINY["small_unet"])))
    x, _ = digits(8)
    t, eps = module._draw_fixed(x)
    module._validated = 8
    other_t, other_eps = module._draw_fixed(x)
    assert not (eps == other_eps).flatten(1).all(1).any()
    assert (t != other_t).any()


def test_the_validation_loss_does_not_depend_on_the_size_of_batches(config):
    options = ["debug=limit", "optimizer.lr=0", "callbacks.samples=null", *TINY["small_unet"]]
    losses = []
    for size in (7, 60):
        batches = ["trainer.limit_val_batches=1.0", f"data.eval_batch_size={size}"]
        metrics, _ = train(config(*options, *batches))
        losses.append(metrics["val/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_an_incomplete_step_of_accumulation_has_the_mean_of_its_batches(config):
    """Lightning divides each of the seven batches' losses by three; the last step has one of them."""
    module = attached(build_module(config(*TINY["small_unet"])))
    module.trainer.accumulate_grad_batches, module.trainer.num_training_batches = 3, 7
    assert [module._share_of_window(batch) for batch in range(7)] == [1, 1, 1, 1, 1, 1, 3]


def test_the_last_incomplete_step_is_as_long_as_another(config):
    """Plain gradient descent: accumulating one batch of two moves the weights as that batch alone does."""
    sgd = ["optimizer._target_=torch.optim.SGD", "~optimizer.weight_decay", "~optimizer.betas"]
    options = ["debug=limit", "callbacks.samples=null", "trainer.limit_train_batches=1", "optimizer.lr=1e-2"]
    weights = []
    for accumulated in (1, 2):
        steps = f"trainer.accumulate_grad_batches={accumulated}"
        _, objects = train(config(*options, *sgd, *TINY["small_unet"], steps))
        weights.append(objects["module"].state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
