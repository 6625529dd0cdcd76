"""Augmentation of training images, on the device, as a function of numbers that are drawn beforehand."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_diffusion.common.errors import check_number
from lit_diffusion.common.tensors import per_image


class Augment(ABC):
    """Changes training images at random.

    Attributes:
        width: how many numbers tell the network what was done, all 0 for nothing; 0 if it isn't told.
    """

    width = 0

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw what is to be done with n images, (n, K)."""

    @abstractmethod
    def __call__(self, x: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return images (B, C, H, W), changed as the rows of ``drawn`` say, and what the network is told.

        The latter is (B, width), or None if it isn't told.
        """


class Flip(Augment):
    """Mirrors some images, left to right, and tells nobody: for data whose mirror images are as likely.

    Args:
        share: of the images that are mirrored.
    """

    def __init__(self, share: float = 0.5):
        check_number("augment.share", share, least=0, most=1)
        self.share = share

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return (torch.rand(n, 1, generator=generator, device=generator.device) < self.share).float()

    def __call__(self, x: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor | None]:
        return torch.where(per_image(drawn[:, 0], x) > 0, x.flip(-1), x), None


class Edm(Augment):
    """Mirrors, scales, turns, stretches and shifts images, and tells the network (Karras et al. 2022, F.2).

    The network learns images as they are and as they may be changed, told apart by nine numbers; sampled
    with zeros, it makes unchanged ones, so that nothing leaks. Half of all images are mirrored; each other
    change is made with the probability. Pixels between pixels are bicubic, where the paper's code
    has wavelets, and what lies beyond the border is the reflection of the image.

    The numbers are: mirrored left to right, and top to bottom; log2 of the scale, in 0.2; cos(angle) - 1
    and sin(angle) of the turn; log2 of the stretch, in 0.2, times the cosine and the sine of its direction;
    the shifts to the right and down, in eighths of the side.

    Args:
        probability: of each change but the first.
    """

    width = 9

    def __init__(self, probability: float = 0.12):
        check_number("augment.probability", probability, least=0, most=1)
        self.probability = probability

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        device = generator.device
        uniform = torch.rand(n, 10, generator=generator, device=device)
        normal = torch.randn(n, 4, generator=generator, device=device)
        mirrors, aslant = (uniform[:, :2] < 0.5).float(), uniform[:, 2] < 0.5
        angles = (2 * uniform[:, 3:5] - 1) * math.pi
        happens = (uniform[:, 5:] < self.probability).float()
        columns = [
            mirrors[:, 0],
            mirrors[:, 1] * happens[:, 0],
            normal[:, 0] * happens[:, 1],
            angles[:, 0] * happens[:, 2],
            normal[:, 1] * happens[:, 3],
            angles[:, 1] * aslant,
            normal[:, 2] * happens[:, 4],
            normal[:, 3] * happens[:, 4],
        ]
        return torch.stack(columns, dim=1)

    def __call__(self, x: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor | None]:
        mirror_x, mirror_y, scale, turn, stretch, direction, right, down = drawn.to(x).unbind(1)
        x = torch.where(per_image(mirror_x, x) > 0, x.flip(-1), x)
        x = torch.where(per_image(mirror_y, x) > 0, x.flip(-2), x)
        turned = [turn.cos() - 1, turn.sin()]
        stretched = [stretch * direction.cos(), stretch * direction.sin()]
        moves = torch.stack([scale, *turned, *stretched, right, down], dim=1)
        told = torch.cat([drawn[:, :2].to(x), moves], dim=1)
        narrow = torch.exp2(-0.2 * stretch)
        squeeze = torch.diag_embed(torch.stack([narrow, 1 / narrow], dim=1))
        squeeze = rotation(direction) @ squeeze @ rotation(-direction)
        matrix = torch.exp2(-0.2 * scale)[:, None, None] * rotation(turn) @ squeeze
        moved = affine(x, matrix, torch.stack([right, down], dim=1) / 4)
        return torch.where(per_image(moves.any(1), x), moved.clamp(-1, 1), x), told


def affine(x: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Return images whose pixel at q is that of x at matrix (q - shift), q from the centre, right and down.

    Args:
        x: images, (B, C, H, W).
        matrix: (B, 2, 2), for q in pixels.
        shift: (B, 2), in halves of the width and of the height.
    """
    height, width = x.shape[2:]
    sides = torch.tensor([width, height], device=x.device, dtype=x.dtype)
    matrix = matrix * sides / sides[:, None]  # for q in halves of the sides, as torch counts
    places = torch.cat([matrix, -matrix @ shift[:, :, None]], dim=2)
    grid = F.affine_grid(places, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, "bicubic", padding_mode="reflection", align_corners=False)


def rotation(angle: Tensor) -> Tensor:
    """Return matrices (B, 2, 2) that turn by angles (B,), from the first axis to the second."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
