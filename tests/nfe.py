"""Quality against cost, of every sampler: ``python tests/nfe.py CKPT [N]`` prints a table, row by row.

N images (1,000 unless said otherwise), labels in turn, seed 0, no guidance; Frechet distance between
the features of ``classifier.py`` (128, before its last layer) for these images and for MNIST's 60,000
training images; share that the classifier reads as asked; seconds of one core for the evaluations. The
floor is the distance of as many of MNIST's test images.
"""

import sys
import time

import classifier
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from lit_diffusion import checkpoint
from lit_diffusion.cli import CONFIG_DIR
from lit_diffusion.data.idx import Mnist
from lit_diffusion.images import to_float, to_uint8
from lit_diffusion.samplers.generate import generate
from lit_diffusion.samplers.heun import Heun

SAMPLERS = ("ddim", "heun", "dpmpp_2m", "unipc", "dpmpp_2m_sde", "ancestral")
LONG = ("ddim", "ancestral")  # the only ones of which a thousand evaluations are worth an hour


class Features(nn.Module):
    """uint8 images -> what the classifier's last layer sees."""

    num_features = 128

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network[:-1]

    def forward(self, images: Tensor) -> Tensor:
        return self.network(to_float(images))


def sampler_of(name: str, nfe: int, *options: str):
    """The sampler of conf/sampler, with as many steps as come nearest to so many evaluations."""
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        cfg = compose("sample", [f"sampler={name}", *options])
    sampler = instantiate(cfg.sampler)
    sampler.steps = max(1, (nfe + 1) // 2) if isinstance(sampler, Heun) else nfe
    return sampler


if __name__ == "__main__":
    torch.set_num_threads(1)
    ckpt, n = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    mnist = Mnist("data")
    mnist.prepare()
    train, test = mnist.load(train=True), mnist.load(train=False)
    reader = classifier.train(*train)
    fid = FrechetInceptionDistance(Features(reader).eval(), reset_real_features=False).set_dtype(
        torch.float64
    )
    reader.float().eval()

    def distance(images: Tensor) -> float:
        fid.reset()
        for part in images.split(500):
            fid.update(part, real=False)
        return float(fid.compute())

    for part in train[0].split(500):
        fid.update(part, real=True)
    print(f"classifier: {classifier.accuracy(reader, *test):.2%} on MNIST's test images")
    print(f"floor: {distance(test[0][:n]):.3f}, {n} test images", flush=True)
    denoiser = checkpoint.load_denoiser(checkpoint.read(ckpt))
    y = torch.arange(n) % 10
    print("| NFE | sampler | FID | as asked | seconds |\n|---|---|---|---|---|")
    for nfe in (5, 10, 20, 50, 250, 1000):
        for name in SAMPLERS if nfe < 250 else LONG:
            sampler = sampler_of(name, nfe)
            begin = time.process_time()
            x = torch.cat([
                generate(sampler, denoiser, part.tolist(), (1, 28, 28), 0, y[part])
                for part in torch.arange(n).split(250)
            ])  # fmt: skip
            seconds = time.process_time() - begin
            images = to_uint8(x)
            read = classifier.accuracy(reader, images, y)
            print(f"| {nfe} | {name} | {distance(images):.3f} | {read:.1%} | {seconds:.0f} |", flush=True)
