"""Training: a config in, a trained model in the run's folder out."""

from omegaconf import DictConfig

from lit_diffusion.cli import command


@command("train")
def main(cfg: DictConfig) -> None:
    from lit_diffusion.training import train

    train(cfg)


if __name__ == "__main__":
    main()
