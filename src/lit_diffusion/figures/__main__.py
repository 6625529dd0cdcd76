"""The command line of ``python -m lit_diffusion.figures``: see conf/figures.yaml."""

from lit_diffusion.common.cli import command

if __name__ == "__main__":
    command("figures")
