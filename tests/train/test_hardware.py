from types import MappingProxyType

import pytest
import torch
from commands import TINY

from lit_diffusion.checkpoint import read_checkpoint
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.precision import autocast, choose_precision, fastest_precision
from lit_diffusion.models.blocks import MOST_PLAIN_PIXELS, attention
from lit_diffusion.models.small_unet import SmallUNet
from lit_diffusion.train.run import train

CPU = torch.device("cpu")
SMALL = ["debug=limit", "callbacks.samples=null", *TINY["small_unet"]]


@pytest.fixture
def cpu_with(monkeypatch):
    """cpu_with(*names): a CPU with these instructions and no others, as far as torch is asked."""

    def pretend(*names: str):
        found = MappingProxyType(dict.fromkeys(names, True))
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)

    return pretend


@pytest.mark.parametrize(
    "instructions, precision",
    [
        (["avx2"], "32-true"),
        (["avx2", "avx512_f"], "32-true"),
        (["avx2", "avx512_f", "avx512_bf16"], "bf16-mixed"),
        (["amx_tile", "amx_bf16"], "bf16-mixed"),
    ],
)
def test_the_fastest_precision_is_that_of_the_matrix_instructions(cpu_with, instructions, precision):
    cpu_with(*instructions)
    assert fastest_precision(CPU)[0] == choose_precision("auto", CPU) == precision


def test_a_precision_that_there_is_not_is_refused():
    assert choose_precision("16-mixed", CPU) == "16-mixed"
    with pytest.raises(ConfigError, match="precision is bf16: choose 32-true, auto, bf16-mixed or 16-mixed"):
        choose_precision("bf16", CPU)


def test_auto_is_said_kept_in_the_checkpoint_and_by_those_who_go_on(config, cpu_with, caplog, tmp_path):
    caplog.set_level("INFO")
    options = [*SMALL, "trainer.precision=auto"]
    cpu_with("avx512_bf16")
    train(config(*options, f"out={tmp_path}/one"))
    assert "precision: bf16-mixed, since this CPU multiplies matrices of bfloat16" in caplog.text
    last = tmp_path / "one" / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["hyper_parameters"]["trainer"]["precision"] == "bf16-mixed"
    cpu_with()
    _, objects = train(config(*options, "trainer.max_epochs=2", f"ckpt={last}", f"out={tmp_path}/two"))
    assert objects["trainer"].precision == "bf16-mixed"
    assert "precision: bf16-mixed, since the run began with it" in caplog.text


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_gradients_are_clipped_before_a_fused_step(config, precision):
    """Plain gradient descent at rate 1: the weights move by the clipped gradient's norm."""
    sgd = [
        "optimizer._target_=torch.optim.SGD",
        "~optimizer.weight_decay",
        "~optimizer.betas",
        "optimizer.lr=1",
    ]
    options = [*SMALL, *sgd, f"trainer.precision={precision}", "trainer.max_steps=1"]
    moved = []
    for clip in (1e-3, 1e-4):
        _, objects = train(config(*options, f"trainer.gradient_clip_val={clip}", "optimizer.lr=0"))
        before = [p.detach().clone() for p in objects["module"].parameters()]
        _, objects = train(config(*options, f"trainer.gradient_clip_val={clip}"))
        change = [p.detach() - q for p, q in zip(objects["module"].parameters(), before, strict=True)]
        moved.append(float(torch.nn.utils.get_total_norm(change)))
    assert moved == pytest.approx([1e-3, 1e-4], rel=0.01)


@pytest.mark.parametrize("pixels", [49, MOST_PLAIN_PIXELS + 1])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_attention_in_bfloat16_is_the_fused_kernels(pixels, precision):
    """Forwards and backwards, within what bfloat16 resolves, with autocast and without."""
    q, k, v = torch.randn(3, 2, 4, pixels, 16, generator=torch.manual_seed(0), requires_grad=True)
    full = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    with autocast(precision, CPU):
        half = attention(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, atol=0.02, rtol=0.02)
    weight = torch.randn(full.shape, generator=torch.manual_seed(1))
    gradients = [torch.autograd.grad((out.float() * weight).sum(), (q, k, v)) for out in (half, full)]
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_mixed_precision_stays_near_the_full_one():
    torch.manual_seed(0)
    network = SmallUNet(widths=(16, 32), heads=2)
    torch.nn.init.normal_(network.conv_out.weight, std=0.05)
    x, t = torch.randn(4, 1, 28, 28), torch.rand(4)
    full = network(x, 1000 * t)
    with autocast("bf16-mixed", CPU):
        mixed = network(x, 1000 * t)
    assert mixed.dtype == torch.bfloat16
    assert (mixed.float() - full).norm() < 0.03 * full.norm()


def test_channels_last_changes_the_layout_alone(config):
    plain, _ = train(config(*SMALL))
    laid_out, objects = train(config(*SMALL, "channels_last=true"))
    kernel = objects["module"].denoiser.network.downs[0].blocks[0].second.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert laid_out["val/loss"] == pytest.approx(plain["val/loss"], rel=1e-4)


@pytest.mark.parametrize(
    "override, says",
    [
        ("compile=fast", "compile is fast: choose true, false, or one of default, reduce-overhead"),
        ("channels_last=2", "channels_last is 2: choose true or false"),
        ("tf32=no_idea", "tf32 is no_idea: choose true or false"),
    ],
)
def test_mistakes_are_refused(config, override, says):
    with pytest.raises(ConfigError, match=says):
        train(config(*SMALL, override))
