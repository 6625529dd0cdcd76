"""Tutorial 1's network and training step, told again as it works: an oracle, and the bench's baseline.

Attention is torch's own module as the tutorial calls it, returning weights that nobody reads.
Modules are made in the order of ``AttnUNet``'s, so that parameters map one to one.
"""

import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, c_in, c_out, emb):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(emb, c_out)
        self.norm2, self.conv2 = nn.GroupNorm(8, c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.around = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x, emb):
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        h = h + self.time(nn.functional.silu(emb)).unsqueeze(-1).unsqueeze(-1)
        return self.conv2(nn.functional.silu(self.norm2(h))) + self.around(x)


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.heads = nn.MultiheadAttention(channels, 4, batch_first=True)

    def forward(self, x):
        b, c, h, w = x.shape
        tokens = self.norm(x.reshape(b, c, h * w)).transpose(1, 2)
        mixed, _ = self.heads(tokens, tokens, tokens)
        return x + mixed.transpose(1, 2).reshape(b, c, h, w)


class Tutorial1UNet(nn.Module):
    """28x28 -> 14x14 -> 7x7 and back, 6,067,857 parameters at one channel."""

    def __init__(self, channels=1):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128))
        self.first = nn.Conv2d(channels, 32, 3, padding=1)
        self.down = nn.ModuleList()
        for c_in, c_out, halve in [(32, 64, True), (64, 128, True), (128, 256, False)]:
            resample = nn.Conv2d(c_out, c_out, 4, 2, 1) if halve else nn.Identity()
            self.down.append(nn.ModuleList([Residual(c_in, c_out, 128), Attention(c_out), resample]))
        self.mid = nn.ModuleList()
        for c_in, c_out in [(256, 256), (256, 128)]:
            parts = [Residual(c_in, c_out, 128), Attention(c_out), Residual(c_out, c_out, 128)]
            self.mid.append(nn.ModuleList(parts))
        self.up = nn.ModuleList()
        for c_in, c_out, double in [(128, 64, False), (64, 32, True), (32, 16, True)]:
            resample = nn.ConvTranspose2d(c_in, c_in, 4, 2, 1) if double else nn.Identity()
            self.up.append(nn.ModuleList([resample, Residual(2 * c_in, c_out, 128), Attention(c_out)]))
        self.norm, self.last = nn.GroupNorm(8, 16), nn.Conv2d(16, channels, 3, padding=1)

    def forward(self, x, i):
        wavelengths = 10000 ** (torch.arange(64, device=x.device) / 64)
        angles = i.unsqueeze(1) / wavelengths
        emb = self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))
        h, kept = self.first(x), []
        for residual, attention, resample in self.down:
            kept.append(h)
            h = resample(attention(residual(h, emb)))
        for residual1, attention, residual2 in self.mid:
            h = residual2(attention(residual1(h, emb)), emb)
        for resample, residual, attention in self.up:
            h = attention(residual(torch.cat([resample(h), kept.pop()], dim=1), emb))
        return self.last(nn.functional.silu(self.norm(h)))


def training_step(network, optimizer, images, alpha_bar) -> float:
    """The tutorial's step: random index and noise, MSE on the noise, Adam, the loss read each time."""
    optimizer.zero_grad()
    noise = torch.randn_like(images)
    i = torch.randint(0, len(alpha_bar), (len(images),))
    kept = alpha_bar[i].sqrt().reshape(-1, 1, 1, 1)
    lost = (1 - alpha_bar[i]).sqrt().reshape(-1, 1, 1, 1)
    loss = nn.functional.mse_loss(network(kept * images + lost * noise, i), noise)
    loss.backward()
    optimizer.step()
    return loss.item()


def same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Give ours the weights of theirs, parameter by parameter in order."""
    with torch.no_grad():
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.copy_(q)
