"""Sampling: a checkpoint in, images out."""

from omegaconf import DictConfig

from lit_diffusion.common.cli import command


@command("sample")
def main(cfg: DictConfig) -> None:
    from lit_diffusion.sample.run import sample

    for path in sample(cfg):
        print(path)


if __name__ == "__main__":
    main()
