"""The command line of ``python -m lit_diffusion.edit``: see conf/edit.yaml."""

from lit_diffusion.common.cli import command

if __name__ == "__main__":
    command("edit")
