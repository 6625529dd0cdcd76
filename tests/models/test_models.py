import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from tutorial1 import Tutorial1UNet, same_weights
from tutorial2 import Tutorial2UNet

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.models.attn_unet import AttnUNet
from lit_diffusion.models.blocks import SelfAttention, sinusoidal
from lit_diffusion.models.convnext_unet import ConvNeXtUNet, Down
from lit_diffusion.models.dit import Block, DiT, rotated, waves
from lit_diffusion.models.fc_unet import FCUNet
from lit_diffusion.models.small_unet import SmallUNet

TINY = {
    FCUNet: {"width": 4},
    SmallUNet: {"widths": (8, 16), "blocks": (1, 2), "heads": 2, "groups": 4},
    AttnUNet: {
        "down_channels": (8, 16, 16, 8),
        "mid_channels": (8, 16, 16),
        "up_channels": (16, 16, 8, 8),
        "time_width": 8,
        "heads": 2,
    },
    ConvNeXtUNet: {"width": 4, "multipliers": (1, 2, 2)},
    DiT: {"width": 16, "depth": 2, "heads": 2},
}
NETWORKS = pytest.mark.parametrize("network", TINY)


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_attn_unet_equals_the_tutorial():
    torch.manual_seed(0)
    ours, theirs = AttnUNet(), Tutorial1UNet()
    assert count(ours) == count(theirs) == 6_067_857
    same_weights(ours, theirs)
    x, i = torch.randn(3, 1, 28, 28), torch.tensor([0, 421, 999])
    for network in (ours, theirs):
        network.zero_grad()
        network(x, i.float() if network is ours else i).square().mean().backward()
    torch.testing.assert_close(ours(x, i.float()), theirs(x, i), atol=1e-5, rtol=1e-5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("modulation", ["none", "time", "class"])
def test_fc_unet_equals_the_tutorial(modulation):
    """Trained a few steps side by side, so that gradients and batch norm's statistics are compared too."""
    torch.manual_seed(0)
    num_classes = 10 if modulation == "class" else 0
    ours = FCUNet(width=8, time=modulation != "none", num_classes=num_classes)
    theirs = Tutorial2UNet(8, modulation)
    same_weights(ours, theirs)
    x, target = torch.randn(2, 6, 1, 28, 28)
    t, y = torch.rand(6), torch.tensor([0, 3, 9, 10, 10, 5])
    one_hot = torch.eye(11)[y][:, :10]  # label 10, none, is all zeros
    for train in (True, True, True, False):
        for network in (ours.train(train), theirs.train(train)):
            out = (
                network(x, 1000 * t, y if num_classes else None)
                if network is ours
                else theirs(x, t[:, None], one_hot)
            )
            network.out = out.detach()
            if train:
                network.zero_grad()
                (out - target).square().mean().backward()
                with torch.no_grad():
                    for p in network.parameters():
                        p -= 0.1 * p.grad
        torch.testing.assert_close(ours.out, theirs.out, atol=1e-5, rtol=1e-5)
    assert (ours.out - x).abs().max() > 0.1


def test_fc_unet_at_the_tutorials_widths():
    """The diagram's layers, counted by hand: convolutions 30 D^2 k^2, and so on."""
    for d in (64, 128):
        kernels = 9 * (d + d**2) + 9 * 3 * d**2 + 9 * (2 + 4 + 4) * d**2 + 49 * 4 * d**2
        kernels += 16 * 4 * d**2 + 9 * 2 * d**2 + 16 * 2 * d**2 + 9 * 2 * d**2 + 9 * 3 * d**2 + 9 * d
        biases_and_norms = 3 * (2 * d * 4 + 13 * d) + 1
        assert count(FCUNet(width=d, time=False)) == kernels + biases_and_norms


def test_small_unet_is_small():
    network = SmallUNet(num_classes=10)
    assert 2.0e6 < count(network) < 2.5e6
    with FlopCounterMode(display=False) as flops:
        network(torch.randn(1, 1, 28, 28), torch.zeros(1))
    assert flops.get_total_flops() < 300e6


def test_small_unet_starts_at_zero():
    assert SmallUNet()(torch.randn(2, 1, 28, 28), torch.tensor([3.0, 500.0])).abs().max() == 0


def test_dit_starts_at_zero_and_has_a_known_size():
    network = DiT(num_classes=10)
    assert network(torch.randn(2, 1, 28, 28), torch.tensor([3.0, 500.0])).abs().max() == 0
    w = 192
    block = 2 * (3 * w**2 + 3 * w) + 3 * w**2 + 3 * w + w**2 + w + 2 * 4 * w**2 + 5 * w + 2 * 32
    ends = 17 * w + 2 * (w**2 + w) + 11 * w + 2 * w**2 + 2 * w + 16 * w + 1
    assert count(network) == 4 * block + ends


@pytest.mark.parametrize("depth", [4, 5])
def test_long_skips_lead_from_the_first_blocks_to_the_last(depth):
    """A merge that takes the block before alone is none; the last block is given what the first one made."""
    torch.manual_seed(0)
    plain, skipping = (DiT(width=16, depth=depth, heads=2, long_skips=skips) for skips in (False, True))
    for weight in plain.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    skipping.load_state_dict(plain.state_dict(), strict=False)
    assert len(skipping.merges) == (depth - 1) // 2
    for merge in skipping.merges:
        merge.weight.data = torch.cat([torch.eye(16), torch.zeros(16, 16)], dim=1)
        merge.bias.data.zero_()
    x, t = torch.randn(2, 1, 28, 28), torch.rand(2)
    torch.testing.assert_close(skipping(x, t), plain(x, t))
    skipping.merges[-1].weight.data = torch.cat([torch.zeros(16, 16), torch.eye(16)], dim=1)
    plain.blocks = torch.nn.ModuleList([plain.blocks[0], plain.blocks[-1]])
    torch.testing.assert_close(skipping(x, t), plain(x, t))


def test_dit_puts_each_patch_back_where_it_was():
    """While its gates are zero no token sees another one."""
    network = DiT(channels=3, image_size=[8, 12], patch_size=4, width=16, depth=1, heads=2)
    torch.nn.init.normal_(network.out.weight, generator=torch.manual_seed(0))
    x = torch.randn(1, 3, 8, 12, requires_grad=True)
    out = network(x, torch.zeros(1))
    (gradient,) = torch.autograd.grad(out[0, :, 4:8, 8:12].square().sum(), x)
    seen = gradient.abs().sum((0, 1)) > 0
    assert seen[4:8, 8:12].all() and seen.sum() == 16


def test_rotary_positions_are_relative():
    """Queries and keys meet in a number that depends on how many rows and columns are between them."""
    q, k = torch.randn(2, 1, 1, 1, 32, generator=torch.manual_seed(0)).expand(2, 1, 1, 20, 32)
    turned = waves(4, 5, 32)
    scores = (rotated(q, turned) @ rotated(k, turned).mT)[0, 0].reshape(4, 5, 4, 5)
    torch.testing.assert_close(scores[0, 0, 2, 3], scores[1, 1, 3, 4])
    torch.testing.assert_close(scores[2, 1, 1, 3], scores[3, 2, 2, 4])
    for other in (scores[0, 0, 3, 2], scores[0, 0, 2, 0], scores[0, 0, 0, 3]):
        assert not torch.isclose(scores[0, 0, 2, 3], other)
    torch.testing.assert_close(scores[0, 0, 0, 0], (q[0, 0, 0] * k[0, 0, 0]).sum())


def test_a_block_of_dit_sees_where_tokens_are_from_each_other_and_no_more():
    torch.manual_seed(0)
    block = Block(width=32, heads=2, hidden=64, dropout=0.0)
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.3)
    h, emb = torch.randn(1, 12, 32), torch.randn(1, 32)
    places = waves(5, 6, 16).unflatten(1, (5, 6))
    here, there, across = (
        block(h, emb, part.flatten(1, 2))
        for part in (places[:, :3, :4], places[:, 2:5, 1:5], places[:, :4, :3])
    )
    torch.testing.assert_close(here, there)
    assert not torch.allclose(here, across)


def test_dit_sees_where_a_token_is():
    """Alike tokens of which none sees another, while the gates are zero, differ by their row and column."""
    network = DiT(image_size=[8, 12], patch_size=4, width=16, depth=1, heads=2)
    torch.nn.init.normal_(network.out.weight, generator=torch.manual_seed(0))
    tokens = network(torch.zeros(1, 1, 8, 12), torch.zeros(1))[0, 0].unfold(0, 4, 4).unfold(1, 4, 4)
    assert torch.pdist(tokens.reshape(6, 16)).min() > 1e-3


def test_dit_refuses_an_image_that_lies_on_its_side():
    network = DiT(image_size=[8, 12], patch_size=4, width=16, depth=1, heads=2)
    with pytest.raises(ConfigError, match="12 x 8 pixels are 3 x 2 patches"):
        network(torch.zeros(1, 1, 12, 8), torch.zeros(1))


def test_convnext_unet_has_the_tutorials_shape():
    """Two blocks of each level and two in the middle, each skip of its own: 19 blocks at four levels."""
    network = ConvNeXtUNet(width=8)
    blocks = [m for m in network.modules() if type(m).__name__ == "ConvNeXtBlock"]
    assert len(blocks) == 2 * 4 + 2 + 2 * 4 + 1
    assert [b.depthwise.in_channels for b in blocks[-9:]] == [96, 96, 48, 48, 24, 24, 16, 16, 16]
    assert blocks[0].convs[1].out_channels == 2 * 8


def test_space_to_depth_keeps_every_pixel():
    down = Down(1, 4)
    torch.nn.init.zeros_(down.conv.bias)
    down.conv.weight.data = torch.eye(4).reshape(4, 4, 1, 1)
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert sorted(down(x).flatten().tolist()) == list(range(16))
    assert down(x)[0, :, 0, 0].tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize("size", [28, 29, 32])
def test_convnext_unet_takes_odd_sizes(size):
    network = ConvNeXtUNet(width=4, multipliers=(1, 1, 1, 1), image_size=size)
    assert network(torch.randn(2, 1, size, size), torch.rand(2)).shape == (2, 1, size, size)


@NETWORKS
@pytest.mark.parametrize("channels", [1, 3])
def test_every_parameter_is_trained(network, channels):
    torch.manual_seed(0)
    net = network(channels=channels, num_classes=10, **TINY[network])
    for p in net.parameters():  # wake the zero-initialised convolutions
        torch.nn.init.normal_(p, std=0.1)
    x = torch.randn(4, channels, 28, 28)
    out = net(x, torch.tensor([0.0, 10.0, 500.0, 999.0]), torch.tensor([0, 4, 9, 10]))
    assert out.shape == x.shape
    out.square().mean().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@NETWORKS
def test_time_and_label_matter_and_none_is_the_null_label(network):
    torch.manual_seed(0)
    net = network(num_classes=10, **TINY[network])
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, t = torch.randn(2, 1, 28, 28), torch.tensor([5.0, 5.0])
    out = net(x, t, torch.tensor([3, 3]))
    assert not torch.allclose(out, net(x, t + 400, torch.tensor([3, 3])))
    assert not torch.allclose(out[1], net(x, t, torch.tensor([3, 4]))[1])
    assert torch.equal(net(x, t), net(x, t, torch.tensor([10, 10])))


@NETWORKS
def test_labels_given_to_a_network_without_any_are_refused(network):
    with pytest.raises(ConfigError, match="labels"):
        network(**TINY[network])(torch.randn(1, 1, 28, 28), torch.zeros(1), torch.tensor([1]))


def test_attention_is_torchs():
    torch.manual_seed(0)
    ours, theirs = SelfAttention(16, heads=4, groups=4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    x = torch.randn(2, 16, 3, 5)
    tokens = ours.norm(x).flatten(2).transpose(1, 2)
    expected = x + theirs(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(ours(x), expected)


def test_sinusoidal_features():
    out = sinusoidal(torch.tensor([0.0, 7.0]), 8)
    frequencies = 10000.0 ** (-torch.arange(4) / 4)
    torch.testing.assert_close(out[1], torch.cat([(7 * frequencies).sin(), (7 * frequencies).cos()]))
    assert out[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    lowest = sinusoidal(torch.tensor([1.0]), 8, lowest=True)
    torch.testing.assert_close(lowest[0, 3], torch.tensor(1e-4).sin())


@pytest.mark.parametrize(
    "mistake, says",
    [
        (lambda: SmallUNet(widths=(60, 112)), "groups is 8"),
        (lambda: SmallUNet(heads=5), "heads is 5"),
        (lambda: SmallUNet(image_size=30), "image_size is 30"),
        (lambda: SmallUNet(widths=(64,), blocks=(1, 2)), "widths"),
        (lambda: SmallUNet(widths=()), "widths"),
        (lambda: SmallUNet(num_classes=-1), "num_classes is -1"),
        (lambda: DiT(image_size=30), "image_size is 30"),
        (lambda: DiT(heads=5), "heads is 5"),
        (lambda: DiT(width=36, heads=6), "each head 6"),
        (lambda: DiT(depth=0), "depth is 0"),
        (lambda: AttnUNet(image_size=30), "image_size is 30"),
        (lambda: AttnUNet(groups=7), "groups is 7"),
        (lambda: AttnUNet(heads=0), "heads is 0"),
        (lambda: AttnUNet(mid_channels=(128, 128)), "don't meet"),
        (lambda: AttnUNet(up_channels=(128, 64, 64, 16)), "don't meet"),
        (lambda: AttnUNet(down_sample=(True, True)), "down_sample"),
        (lambda: AttnUNet(time_width=7), "time_width is 7"),
        (lambda: FCUNet(image_size=32), "image_size is 32"),
        (lambda: FCUNet(width=0), "width is 0"),
        (lambda: FCUNet(num_classes=10, time=False), "time is false"),
        (lambda: ConvNeXtUNet(width=5), "width is 5"),
        (lambda: ConvNeXtUNet(multipliers=(1, 0)), "multipliers"),
        (lambda: ConvNeXtUNet(image_size=4), "image_size is 4"),
    ],
)
def test_mistakes_are_refused_with_the_value(mistake, says):
    with pytest.raises(ConfigError, match=says):
        mistake()
