"""Editing: a checkpoint and the name of an edit in, a labelled figure out."""

from omegaconf import DictConfig

from lit_diffusion.cli import command


@command("edit")
def main(cfg: DictConfig) -> None:
    from lit_diffusion.editing import edit

    for path in edit(cfg):
        print(path)


if __name__ == "__main__":
    main()
