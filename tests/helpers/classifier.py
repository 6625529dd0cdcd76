"""A reader of digits that learns a few hundred by heart in seconds."""

import torch
from torch import Tensor, nn

from lit_diffusion.common.images import to_float


def classifier() -> nn.Module:
    """(B, 1, 28, 28) in [-1, 1] -> (B, 10) logits."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10),
    )  # fmt: skip


def train(images: Tensor, labels: Tensor, epochs: int = 4, batch_size: int = 100) -> nn.Module:
    """A classifier of images uint8 (N, 1, 28, 28)."""
    torch.manual_seed(0)
    network = classifier()
    steps = epochs * (len(images) // batch_size)
    optimizer = torch.optim.AdamW(network.parameters())
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        if step % (steps // epochs) == 0:
            batches = torch.randperm(len(images)).split(batch_size)
        batch = batches[step % len(batches)]
        loss = nn.functional.cross_entropy(network(to_float(images[batch])), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return network.eval()
