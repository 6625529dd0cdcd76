"""The command line of ``python -m lit_diffusion.train``: see conf/train.yaml."""

from lit_diffusion.common.cli import command

if __name__ == "__main__":
    command("train")
