import pytest
import torch
from commands import TINY
from torch import nn

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.models.attn_unet import AttnUNet
from lit_diffusion.models.convnext_unet import ConvNeXtUNet
from lit_diffusion.models.dit import DiT
from lit_diffusion.models.small_unet import SmallUNet
from lit_diffusion.train.muon import Muon, is_hidden, orthogonalized


@pytest.mark.parametrize("shape", [(3, 24, 60), (2, 60, 24), (1, 24, 25)])
def test_singular_values_come_near_to_one_and_vectors_stay(shape):
    matrices = torch.randn(shape, generator=torch.manual_seed(0))
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalized(matrices)
    seen = torch.diagonal(u.mT @ result @ vh.mT, dim1=1, dim2=2)
    large = s > 0.03 * s.amax(1, keepdim=True)  # five steps don't lift the smallest
    assert seen[large].min() > 0.6 and seen[large].max() < 1.3
    torch.testing.assert_close(u @ torch.diag_embed(seen) @ vh, result, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "network, others",
    [
        (SmallUNet(num_classes=10), {"conv_in", "conv_out", "label_embedding.table"}),
        (AttnUNet(num_classes=10), {"conv_in", "conv_out", "label_embedding.table"}),
        (ConvNeXtUNet(), {"conv_out"}),
        (DiT(num_classes=10), {"patches", "out", "label_embedding.table"}),
    ],
)
def test_first_and_last_layers_and_tables_are_not_muons(network, others):
    """Nor are kernels of one channel each, biases and norms."""
    left = {
        name.removesuffix(".weight")
        for name, p in network.named_parameters()
        if p.ndim >= 2 and not is_hidden(p)
    }
    assert others <= left
    assert all(min(network.get_parameter(f"{name}.weight").shape[:2]) < 16 for name in left)


def trained_weights(optimizer, network, steps=5):
    for step in range(steps):
        x, target = torch.randn(2, 32, 20, generator=torch.manual_seed(step))
        network.zero_grad()
        (network(x) - target).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in network.parameters()]


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 48), nn.GELU(), nn.Linear(48, 20))


def test_matrices_take_the_steps_of_torchs_muon():
    """Within what the bfloat16 of torch's resolves."""
    network = mlp()
    before = [p.detach().clone() for p in network.parameters()]
    options = {"lr": 1e-3, "weight_decay": 0.1}
    ours = trained_weights(Muon(network.parameters(), momentum=0.95, **options), network)
    network = mlp()
    matrices = [p for p in network.parameters() if p.ndim == 2]
    biases = [p for p in network.parameters() if p.ndim == 1]
    theirs = torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **options)
    rest = torch.optim.AdamW(biases, betas=(0.9, 0.95), **options)
    theirs.register_step_post_hook(lambda *_: rest.step())
    for p, start, other in zip(ours, before, trained_weights(theirs, network), strict=True):
        assert (p - other).norm() < 0.02 * (p - start).norm()


def test_the_rest_takes_the_steps_of_torchs_adamw():
    torch.manual_seed(0)
    network, options = nn.Sequential(nn.Linear(20, 8), nn.GELU(), nn.Linear(8, 20)), {"lr": 1e-3}
    state = {name: p.clone() for name, p in network.state_dict().items()}
    ours = trained_weights(Muon(network.parameters(), **options), network)  # too narrow for Muon
    network.load_state_dict(state)
    adamw = torch.optim.AdamW(
        network.parameters(), betas=(0.9, 0.95), weight_decay=0.01, fused=True, **options
    )
    torch.testing.assert_close(ours, trained_weights(adamw, network), atol=0, rtol=0)


def test_a_kernel_is_the_matrix_of_its_output_channels():
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(16, 24, 3, 3))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    kernel.grad = torch.randn(16, 24, 3, 3)
    matrix.grad = kernel.grad.flatten(1)
    for p in (kernel, matrix):
        Muon([p]).step()
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach())


def test_updates_have_the_size_of_adamws():
    p = nn.Parameter(torch.zeros(64, 32, 3, 3))
    p.grad = torch.randn(p.shape, generator=torch.manual_seed(0))
    Muon([p], lr=1e-3).step()
    assert p.detach().square().mean().sqrt() == pytest.approx(0.2e-3, rel=0.2)


def test_a_run_goes_on_bit_for_bit(straight_and_resumed):
    """Through Lightning's checkpoint, at the end of the first epoch."""
    small = [*TINY["small_unet"], "model.widths=[16,16]"]
    ours, theirs = straight_and_resumed(*small, "optimizer=muon")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_momentum_that_cannot_work_is_refused():
    with pytest.raises(ConfigError, match=r"optimizer\.momentum is 1: choose"):
        Muon(mlp().parameters(), momentum=1)
