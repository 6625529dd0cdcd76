"""A small classifier: its features measure images, and its classes read them."""

from collections.abc import Sequence

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from lit_diffusion.common import rng
from lit_diffusion.common.images import to_float
from lit_diffusion.common.lr_schedules import warmup_cosine

BATCH_SIZE = 500  # images at a time, where nothing is trained


class Classifier(nn.Module):
    """Four convolutions with batch norm on 2x2 patches, the mean over pixels, and two linear layers.

    Args:
        channels: image channels.
        num_classes: labels.
        widths: channels of the two convolutions at half the image's side, and of the two at a quarter.
        num_features: width of the last layer but one.
    """

    def __init__(
        self,
        channels: int = 1,
        num_classes: int = 10,
        widths: Sequence[int] = (48, 64, 96, 96),
        num_features: int = 64,
    ):
        super().__init__()
        self.num_features = num_features
        a, b, c, d = widths
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2),
            *conv(4 * channels, a), *conv(a, b), nn.MaxPool2d(2), *conv(b, c), *conv(c, d),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(d, num_features), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(num_features, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the features (B, num_features) of images (B, C, H, W) in [-1, 1]; odd sides are padded."""
        height, width = x.shape[2:]
        return self.body(F.pad(x, (0, width % 2, 0, height % 2), mode="replicate"))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, C, H, W) in [-1, 1]."""
        return self.head(self.features(x))


def conv(c_in: int, c_out: int) -> tuple[nn.Module, ...]:
    """Return a 3x3 convolution with batch norm and ReLU."""
    return nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()


def fit(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    seed: int,
    batch_size: int = 64,
    lr: float = 3e-3,
    jitter: float = 0.1,
    flip: bool = False,
    dropout: float = 0.0,
    bf16: bool = False,
) -> nn.Module:
    """Train a classifier with AdamW, the learning rate falling to 0, and return it in eval mode.

    Everything but the network's first weights is a function of the seed.

    Args:
        network: on its device.
        images: uint8 (N, C, H, W).
        labels: (N,) int64.
        epochs: passes over the images.
        seed: of the order of the images, the jitter, the flips and the dropout.
        jitter: how far images are turned (rad), scaled, sheared and shifted (shares of the side), at most.
        flip: mirror half of them, for images without handedness.
        dropout: share of the features dropped, less than 1.
        bf16: multiply in bfloat16.
    """
    device = next(network.parameters()).device
    order, noise = rng.generator(seed, "classifier"), rng.generator(seed, "jitter")
    batch_size = min(batch_size, len(images))
    steps = epochs * (len(images) // batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.05)
    schedule = warmup_cosine(optimizer, total_steps=steps, warmup=0.1)
    network.train()
    for _ in track(range(epochs), "a classifier learns", transient=True):
        shuffled = torch.randperm(len(images), generator=order).split(batch_size)
        for batch in [part for part in shuffled if len(part) == batch_size]:
            x = jittered(to_float(images[batch]), jitter, flip, noise).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                features = network.features(x)
                kept = torch.rand(features.shape, generator=noise) >= dropout
                logits = network.head(features * kept.to(device) / (1 - dropout))
            loss = F.cross_entropy(logits.float(), labels[batch].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def jittered(x: Tensor, amount: float, flip: bool, generator: torch.Generator) -> Tensor:
    """Move each image (B, C, H, W) in [-1, 1] a little, by a random affine map; extend the border."""
    if amount == 0 and not flip:
        return x
    move = amount * (2 * torch.rand(len(x), 2, 3, generator=generator) - 1)
    move[:, [0, 1], [0, 1]] += 1
    if flip:
        move[:, 0] *= torch.randint(2, (len(x), 1), generator=generator) * 2 - 1
    places = F.affine_grid(move, list(x.shape), align_corners=False)
    return F.grid_sample(x, places, padding_mode="border", align_corners=False)


@torch.no_grad()
def classify(network: nn.Module, images: Tensor) -> Tensor:
    """Return the class that a classifier reads in each of images uint8 (N, C, H, W), (N,) int64."""
    device = next(network.parameters()).device
    return torch.cat(
        [network(to_float(part.to(device))).argmax(1).cpu() for part in images.split(BATCH_SIZE)]
    )


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images uint8 that are read as their labels."""
    return float((classify(network, images) == labels).double().mean())
