"""The command line of ``python -m lit_diffusion.study``: see conf/study.yaml."""

from lit_diffusion.common.cli import command

if __name__ == "__main__":
    command("study")
