"""How many samples a small classifier reads as asked: ``python tests/classifier.py samples.npz``.

The classifier is two convolutions and two linear layers, trained for four epochs on MNIST's training images
as they are, seed 0; it prints its accuracy on the test images, then the share for each file of samples
that ``python -m lit_diffusion.sample npz=true`` wrote.
"""

import sys

import numpy as np
import torch
from torch import Tensor, nn

from lit_diffusion.data.idx import Mnist
from lit_diffusion.images import to_float


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


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images uint8 that are read as their labels."""
    read = torch.cat([network(to_float(part)).argmax(1) for part in images.split(500)])
    return float((read == labels).double().mean())


if __name__ == "__main__":
    mnist = Mnist("data")
    mnist.prepare()
    network = train(*mnist.load(train=True))
    print(f"MNIST's 10,000 test images: {accuracy(network, *mnist.load(train=False)):.2%}")
    for path in sys.argv[1:]:
        with np.load(path) as arrays:
            images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
        print(f"{path}, {len(images)} samples: {accuracy(network, images, labels):.1%} as asked")
