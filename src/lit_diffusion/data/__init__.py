"""Data: where images come from, and how they are served in batches."""

from lit_diffusion.data.cifar10 import Cifar10
from lit_diffusion.data.datamodule import ImageDataModule
from lit_diffusion.data.emoji import Emoji, EmojiPairs
from lit_diffusion.data.folder import Folder
from lit_diffusion.data.huggingface import HuggingFace
from lit_diffusion.data.idx import FashionMnist, Mnist
from lit_diffusion.data.npz import Npz
from lit_diffusion.data.torchvision_sets import TorchvisionImages

__all__ = [
    "Cifar10",
    "Emoji",
    "EmojiPairs",
    "FashionMnist",
    "Folder",
    "HuggingFace",
    "ImageDataModule",
    "Mnist",
    "Npz",
    "TorchvisionImages",
]
