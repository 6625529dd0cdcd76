"""Editing: a checkpoint and the name of an edit in, a labelled figure out."""

from omegaconf import DictConfig

from lit_diffusion.common.cli import command


@command("edit")
def main(cfg: DictConfig) -> None:
    from lit_diffusion.edit.run import edit

    for path in edit(cfg):
        print(path)


if __name__ == "__main__":
    main()
