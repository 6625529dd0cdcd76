"""The rows that a GPU adds: batch sizes, precision, layout, compilation, CUDA graphs, sampling."""

import torch
from bench import Step, in_turn, row, seconds

from lit_diffusion.checkpoint import load_denoiser, read_checkpoint
from lit_diffusion.loading import SHIPPED_MODEL
from lit_diffusion.samplers.dpmpp import DPMpp2M
from lit_diffusion.samplers.generate import generate

BATCHES = (64, 256, 1024, 4096)
MEANS = {  # of speed, each alone and together, with the precision of the step
    "bf16": ("bf16-mixed", []),
    "channels_last": ("32-true", ["channels_last=true"]),
    "compile": ("32-true", ["compile=true"]),
    "CUDA graphs": ("32-true", ["compile=reduce-overhead"]),
    "bf16, channels_last": ("bf16-mixed", ["channels_last=true"]),
    "bf16, compile": ("bf16-mixed", ["compile=true"]),
    "bf16, CUDA graphs": ("bf16-mixed", ["compile=reduce-overhead"]),
    "bf16, channels_last, CUDA graphs": ("bf16-mixed", ["channels_last=true", "compile=reduce-overhead"]),
}


def on_a_gpu(device: torch.device, rounds: int = 12) -> None:
    """Print the rows: the other side is a plain step in float32."""
    for batch in BATCHES:
        plain = Step(device, batch=batch)
        for name, (precision, overrides) in MEANS.items():
            fast = Step(device, *overrides, precision=precision, batch=batch)
            for _ in range(3):  # compiles, and records graphs
                fast()
            times, plain_times = in_turn(fast, plain, rounds)
            rate = batch / sorted(times)[rounds // 2]
            row(f"step of {batch} images, {name} ({rate:,.0f} images a second)", times, plain_times)
            torch._dynamo.reset()
    sampling(device)


def sampling(device: torch.device) -> None:
    """Print images a second of the model that ships, at several batch sizes."""
    denoiser = load_denoiser(read_checkpoint(SHIPPED_MODEL)).to(device)
    for batch in BATCHES:
        y = torch.arange(batch) % 10

        def draw(batch: int = batch, y: torch.Tensor = y) -> None:
            generate(DPMpp2M(14, clip=True, eta=1.0), denoiser, range(batch), (1, 28, 28), 0, y, device)

        draw()
        print(f"\n{batch} images sampled at once: {batch / seconds(draw):,.0f} images a second")
