"""The networks that measure images: ours, which come with the project, and Inception."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_diffusion.common.errors import ConfigError, check_installed
from lit_diffusion.common.files import sha256_of
from lit_diffusion.common.images import to_float
from lit_diffusion.common.weights import read_weights
from lit_diffusion.features.classifier import BATCH_SIZE, Classifier

SHIPPED_FOLDER = Path(__file__).parents[1] / "trained"
OURS = {path.stem: path for path in SHIPPED_FOLDER.glob("features_*.safetensors")}


@dataclass(frozen=True)
class NetworkInfo:
    """A feature network.

    Attributes:
        name: as the config names it.
        sha256: of its weights.
        accuracy: share of real test images that its classifier reads right; None for no classifier.
        recipe: how it was trained; None if that isn't known.
    """

    name: str
    sha256: str
    accuracy: float | None = None
    recipe: dict[str, Any] | None = None


@dataclass
class FeatureNetwork:
    """A network that turns images into features.

    Attributes:
        name: as the config has it.
        sha256: of the file of its weights, or of the weights themselves.
        network: images uint8 (B, C, H, W) -> (B, F), in eval mode.
        classifier: the same network with its last layer, where it has one.
        metadata: of its file, how it was made.
        batch_size: images in memory at a time.
    """

    name: str
    sha256: str
    network: nn.Module
    classifier: Classifier | None
    metadata: dict[str, Any]
    batch_size: int = BATCH_SIZE

    @torch.no_grad()
    def __call__(self, images: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Return the features (N, F), float32 on the CPU, of images uint8 (N, C, H, W)."""
        network = self.network.to(device).eval()
        return torch.cat([network(part.to(device)).float().cpu() for part in images.split(self.batch_size)])

    def check_shape(self, shape: Sequence[int], key: str) -> None:
        """Raise ConfigError unless it is made for images of this shape, (C, H, W)."""
        channels, *sides = shape
        own = self.metadata.get("network", {}).get("channels", channels)
        learnt = self.metadata.get("recipe", {}).get("image_size", sides)  # older files don't say
        if own != channels or list(learnt) != sides:
            images = f"{own} channel(s)" if own != channels else f"{learnt[0]} x {learnt[1]} pixels"
            raise ConfigError(
                f"{key} is {self.name}, for images of {images}, but these are {tuple(shape)}: choose "
                "another, or train one with python -m lit_diffusion.features"
            )

    @property
    def info(self) -> NetworkInfo:
        """What must stand beside every number that it makes."""
        return NetworkInfo(self.name, self.sha256, self.metadata.get("accuracy"), self.metadata.get("recipe"))


class Penultimate(nn.Module):
    """The inputs of a classifier's last layer, of images uint8."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.features(to_float(images))


class Inception(nn.Module):
    """Inception v3's 2048 features, by torchmetrics, of images uint8 in grey or colour."""

    def __init__(self) -> None:
        super().__init__()
        check_installed("features=inception needs", ["torch_fidelity"], extra="inception")
        from torchmetrics.image.fid import NoTrainInceptionV3

        try:
            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"])
        except OSError as error:
            raise ConfigError(
                f"features is inception, but its weights can't be fetched ({error}): leave features out"
            ) from None

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.expand(-1, 3, -1, -1))


def load_features(name: str, key: str = "features") -> FeatureNetwork:
    """Load a feature network.

    Args:
        name: of one that ships, the path of a file that ``lit_diffusion.features`` wrote, or "inception".
        key: the config key that names it, for errors.

    Raises:
        ConfigError: there is no such network, or the file is none.
    """
    if name == "inception":
        network = Inception()
        digest = hashlib.sha256()
        for weight in network.state_dict().values():
            digest.update(weight.contiguous().numpy().tobytes())
        return FeatureNetwork(name, digest.hexdigest(), network, None, {}, batch_size=50)
    path = OURS.get(f"features_{name}", Path(name))
    if not path.is_file():
        known = ", ".join(sorted(stem.removeprefix("features_") for stem in OURS))
        raise ConfigError(
            f"{key} is {name}: choose one of {known}, inception, or the path of a file that python -m "
            "lit_diffusion.features wrote"
        )
    try:
        weights, metadata = read_weights(path)
        with torch.device("meta"):  # costs no memory, whatever sizes the file has
            classifier = Classifier(**metadata["network"])
        classifier.load_state_dict(weights, assign=True)
    except (RuntimeError, KeyError, TypeError, ValueError, OverflowError):
        raise ConfigError(
            f"{key} is {name}, which is truncated or no feature network: choose another"
        ) from None
    return FeatureNetwork(name, sha256_of(path), Penultimate(classifier).eval(), classifier.eval(), metadata)
