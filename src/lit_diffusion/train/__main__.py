"""Training: a config in, a trained model in the run's folder out."""

from omegaconf import DictConfig

from lit_diffusion.common.cli import command


@command("train")
def main(cfg: DictConfig) -> None:
    from lit_diffusion.train.run import train

    train(cfg)


if __name__ == "__main__":
    main()
