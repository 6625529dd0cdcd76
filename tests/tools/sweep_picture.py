"""Draw a picture of what W&B was told of a multirun's runs, read back from their offline files.

PYTHONPATH=tests/helpers python tests/tools/sweep_picture.py outputs/multirun/... picture.png
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from offline import history, records, settings
from PIL import Image


def main(multirun: Path, picture: Path) -> None:
    """Draw the last grid of each run, under its name and its lowest validation loss."""
    folders = sorted(path.parent for path in multirun.glob("*/wandb") if path.is_dir())
    figure = Figure((4 * len(folders), 3), layout="constrained")
    for axes, folder in zip(figure.subplots(1, len(folders), squeeze=False)[0], folders, strict=True):
        found = records(folder)
        told = settings(found)
        loss = min(item["val/loss"] for item in history(found, "val/loss") if item)
        grid = [item["samples/grid.filenames"][0] for item in history(found, "samples/grid") if item][-1]
        (path,) = folder.glob(f"wandb/offline-run-*/files/{grid}")
        axes.imshow(Image.open(path), cmap="gray")
        axes.set_title(f"{told['display_name'].replace(',', chr(10))}\nval/loss {loss:.4f}", fontsize=10)
        axes.axis("off")
    figure.suptitle(f"group {told['run_group']}, job type {told['job_type']}", fontsize=10)
    figure.savefig(picture, dpi=80)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
