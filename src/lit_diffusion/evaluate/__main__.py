"""The command line of ``python -m lit_diffusion.evaluate``: see conf/evaluate.yaml."""

from lit_diffusion.common.cli import command

if __name__ == "__main__":
    command("evaluate")
