"""The rows of means of speed: precision, layout, compilation, CUDA graphs, each alone and together."""

import time

import torch
from bench_pairs import Step, in_turn, row, seconds

from lit_diffusion.checkpoint import load_denoiser, read_checkpoint
from lit_diffusion.common.precision import multiplies_bfloat16
from lit_diffusion.samplers.dpmpp import DPMpp2M
from lit_diffusion.samplers.generate import generate

MEANS = {  # with the precision of the step, and overrides
    "bf16": ("bf16-mixed", []),
    "channels_last": ("32-true", ["channels_last=true"]),
    "compile": ("32-true", ["compile=true"]),
    "CUDA graphs": ("32-true", ["compile=reduce-overhead"]),
    "bf16, channels_last": ("bf16-mixed", ["channels_last=true"]),
    "bf16, compile": ("bf16-mixed", ["compile=true"]),
    "bf16, CUDA graphs": ("bf16-mixed", ["compile=reduce-overhead"]),
    "bf16, channels_last, CUDA graphs": ("bf16-mixed", ["channels_last=true", "compile=reduce-overhead"]),
}
ON_A_CPU = ("channels_last", "compile")
IN_BFLOAT16 = ("bf16", "bf16, channels_last", "bf16, compile")  # without them 14 times slower
GPU_BATCHES = (64, 256, 1024, 4096)


def means(device: torch.device, rounds: int = 9) -> None:
    """Print a row for each batch size and means; the other side is a plain step in float32."""
    cuda = device.type == "cuda"
    on_a_cpu = ON_A_CPU + IN_BFLOAT16 if multiplies_bfloat16(device) else ON_A_CPU
    for batch in GPU_BATCHES if cuda else (64,):
        plain = Step(device, batch=batch)
        for name in MEANS if cuda else on_a_cpu:
            precision, overrides = MEANS[name]
            fast = Step(device, *overrides, precision=precision, batch=batch)
            start = time.perf_counter()
            for _ in range(3):  # compiles, and records graphs
                fast()
            ready = (
                f", ready after {time.perf_counter() - start:.0f} s"
                if "compile" in "".join(overrides)
                else ""
            )
            times, plain_times = in_turn(fast, plain, rounds)
            rate = batch / sorted(times)[rounds // 2]
            row(
                f"step of {batch} images, {name} ({rate:,.0f} images a second{ready}); plain",
                times,
                plain_times,
            )
            torch._dynamo.reset()


def sampling_rates(device: torch.device) -> None:
    """Print images a second of the model that ships, at several batch sizes."""
    denoiser = load_denoiser(read_checkpoint("mnist")).to(device)
    for batch in GPU_BATCHES:
        y = torch.arange(batch) % 10

        def draw(batch: int = batch, y: torch.Tensor = y) -> None:
            generate(DPMpp2M(14, clip=True, eta=1.0), denoiser, range(batch), (1, 28, 28), 0, y, device)

        draw()
        print(f"\n{batch} images sampled at once: {batch / seconds(draw):,.0f} images a second")
