"""Data: where images come from, and how they are served in batches."""

from lit_diffusion.data.datamodule import ImageDataModule
from lit_diffusion.data.idx import FashionMnist, Mnist

__all__ = ["FashionMnist", "ImageDataModule", "Mnist"]
