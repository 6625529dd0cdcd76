"""Training the small classifier whose features measure images."""

from omegaconf import DictConfig

from lit_diffusion.common.cli import command


@command("features")
def main(cfg: DictConfig) -> None:
    from lit_diffusion.features.run import train_features

    path, accuracy, sha256 = train_features(cfg)
    print(f"{accuracy:.2%} of the test images, sha256 {sha256}")
    print(path)


if __name__ == "__main__":
    main()
