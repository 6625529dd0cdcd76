"""Training: a config in, a trained model in the run's folder out."""

import hydra
from omegaconf import DictConfig

from lit_diffusion.cli import CONFIG_DIR, one_sentence_errors


@hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name="train")
@one_sentence_errors
def main(cfg: DictConfig) -> None:
    from lit_diffusion.training import train

    train(cfg)


if __name__ == "__main__":
    main()
