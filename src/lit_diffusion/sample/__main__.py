"""The command line of ``python -m lit_diffusion.sample``: see conf/sample.yaml."""

from lit_diffusion.common.cli import command

if __name__ == "__main__":
    command("sample")
