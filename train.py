"""python train.py [GROUP=CHOICE] [KEY=VALUE] ...; the same as python -m lit_diffusion.train."""

from lit_diffusion.common.cli import command

if __name__ == "__main__":
    command("train")
