"""Sampling: a checkpoint in, images out."""

import hydra
from omegaconf import DictConfig

from lit_diffusion.cli import CONFIG_DIR, one_sentence_errors


@hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name="sample")
@one_sentence_errors
def main(cfg: DictConfig) -> None:
    from lit_diffusion.sampling import sample

    for path in sample(cfg):
        print(path)


if __name__ == "__main__":
    main()
