"""DeepFloyd IF's two pipelines, tiny and with random weights, saved for the real loading code."""

from pathlib import Path

import torch
from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

WORDS = "<pad> </s> <unk> a an photo oil painting of cat dog temple rainy day high quality"


def scheduler(betas: str = "squaredcos_cap_v2") -> DDPMScheduler:
    """As IF has it: cosine betas, a learnt variance, dynamic thresholding."""
    return DDPMScheduler(
        1000,
        beta_schedule=betas,
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
    )


def unet(channels: int, size: int, **options) -> UNet2DConditionModel:
    """Of the kind of IF's, twice the channels coming out."""
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=size,
        in_channels=channels,
        out_channels=6,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=16,
        encoder_hid_dim=8,
        encoder_hid_dim_type="text_proj",
        attention_head_dim=4,
        norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        **options,
    )
    with torch.no_grad():  # so that the prompt matters, and x stays of the order of 1
        model.conv_out.weight.mul_(3)
    return model


def text() -> dict:
    """A tokenizer of whole words, and a text encoder."""
    words = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS.split())}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(1)
    config = T5Config(
        vocab_size=len(WORDS.split()), d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0
    )
    return {
        "tokenizer": PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ),
        "text_encoder": T5EncoderModel(config).eval(),
    }


def save(folder: Path) -> tuple[Path, Path]:
    """The folders of stage 1, 16 x 16 pixels, and of stage 2, 32 x 32."""
    nothing = {
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
        "requires_safety_checker": False,
    }
    parts = text()
    IFPipeline(unet=unet(3, 16), scheduler=scheduler(), **parts, **nothing).save_pretrained(folder / "1")
    noise_level = {"class_embed_type": "timestep"}
    second = unet(6, 32, **noise_level)
    IFSuperResolutionPipeline(
        unet=second, scheduler=scheduler(), image_noising_scheduler=scheduler("linear"), **parts, **nothing
    ).save_pretrained(folder / "2")
    return folder / "1", folder / "2"
