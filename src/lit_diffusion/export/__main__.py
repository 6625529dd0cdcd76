"""The command line of ``python -m lit_diffusion.export``: see conf/export.yaml."""

from lit_diffusion.common.cli import command

if __name__ == "__main__":
    command("export")
