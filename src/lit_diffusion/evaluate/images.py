"""Images to be scored, from a file."""

from pathlib import Path

from torch import Tensor

from lit_diffusion.data.npz import read_arrays


def read_samples(path: str) -> tuple[Tensor, Tensor | None]:
    """Return images uint8 (N, C, H, W), and labels (N,) if there are any, of a .npz file.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    arrays = read_arrays(Path(path), "samples")
    labels = arrays.get("labels")
    return arrays["images"], None if labels is None else labels.long()
