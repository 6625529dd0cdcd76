"""Figures: a name in, a PNG out."""

import sys

from omegaconf import DictConfig

from lit_diffusion.common.cli import command


@command("figures")
def draw(cfg: DictConfig) -> None:
    from lit_diffusion.figures.run import draw

    for line in draw(cfg):
        print(line)


def main() -> None:
    """``figures NAME`` is short for ``figures figure=NAME``."""
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-") and "=" not in sys.argv[1]:
        sys.argv[1] = f"figure={sys.argv[1]}"
    draw()


if __name__ == "__main__":
    main()
