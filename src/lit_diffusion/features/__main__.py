"""The command line of ``python -m lit_diffusion.features``: see conf/features.yaml."""

from lit_diffusion.common.cli import command

if __name__ == "__main__":
    command("features")
