"""Export: a checkpoint in, a file for other programs out."""

from omegaconf import DictConfig

from lit_diffusion.common.cli import command


@command("export")
def main(cfg: DictConfig) -> None:
    from lit_diffusion.export.run import export

    for path in export(cfg):
        print(path)


if __name__ == "__main__":
    main()
