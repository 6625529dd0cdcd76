"""Figures of images in rows and columns, with their names. Needs matplotlib."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lit_diffusion.common.images import to_uint8

INCHES = 0.9  # side of an image


def panels(
    rows: Sequence[Tensor | Sequence[Tensor | None]],
    columns: Sequence[str],
    names: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """Draw rows of images.

    Args:
        rows: images (C, H, W) in [-1, 1], or None for an empty place.
        columns: the columns' names.
        names: the rows' names.
        captions: a text below each image.
    """
    side = INCHES + 0.2 if captions else INCHES
    figure = Figure((INCHES * len(columns) + 0.8, side * len(rows) + 0.5), layout="constrained")
    cells = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            if image is None:
                cells[row, column].set(xticks=[], yticks=[], frame_on=False)
            else:
                draw_image(cells[row, column], image)
        if names:
            cells[row, 0].set_ylabel(names[row], fontsize=8)
        for column, caption in enumerate(captions[row] if captions else []):
            cells[row, column].set_xlabel(caption, fontsize=8)
    for cell, name in zip(cells[0], columns, strict=True):
        cell.set_title(name, fontsize=8)
    return figure


def draw_image(axes: Axes, image: Tensor) -> None:
    """Draw an image (C, H, W) in [-1, 1], without ticks."""
    axes.imshow(to_uint8(image).permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
