"""Small SD1.5 models made of the host's own classes, with seeded random weights.

Everything an SD1.5 graph relies on is real (16 cross-attention blocks, the real tokenizer, 8x latents); only the sizes are
small. Contexts are 768 wide as SD1.5's unless a narrower text encoder will do. Needs the host's root on `sys.path`.
"""

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import folder_paths
import torch
from comfy.taesd.taesd import TAESD

SD15_LATENT_SCALE = 0.18215
NARROW = 128  # a text encoder of this width takes a thirtieth of the time of one of 768
_HEAD = 64  # channels of the text encoder's


class _EagerOps(comfy.ops.manual_cast):
    """The host's operations, with parameters that exist from the start: with dynamic VRAM the host leaves
    them out until a state dict is loaded, unless a subclass brings its own loading."""

    class Linear(comfy.ops.manual_cast.Linear):
        def _load_from_state_dict(self, *args, **kwargs):
            return super()._load_from_state_dict(*args, **kwargs)

    class Embedding(comfy.ops.manual_cast.Embedding):
        def _load_from_state_dict(self, *args, **kwargs):
            return super()._load_from_state_dict(*args, **kwargs)


def sd15_unet_config(model_channels, pruned=False, context=768):
    """Arguments of the host's UNetModel for an SD1.5 of one width at all depths.

    With two residual blocks a level it has SD1.5's 16 cross-attention blocks under their usual ids;
    `pruned` keeps one residual block a level and so only 10 of them.
    """
    blocks = 1 if pruned else 2
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": model_channels,
        "channel_mult": [1, 1, 1, 1],
        "num_res_blocks": [blocks] * 4,
        "transformer_depth": [1] * (3 * blocks) + [0] * blocks,
        "transformer_depth_output": [1] * (3 * (blocks + 1)) + [0] * (blocks + 1),
        "transformer_depth_middle": 1,
        "context_dim": context,
        "num_heads": 8,
        "num_head_channels": -1,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "legacy": False,
        "use_checkpoint": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }


def sdxl_unet_config(model_channels):
    """The same for an SDXL of one width, with SDXL's levels and one transformer block where it has ten."""
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": model_channels,
        "channel_mult": [1, 1, 1],
        "num_res_blocks": [2] * 3,
        "transformer_depth": [0, 0, 1, 1, 1, 1],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
        "transformer_depth_middle": 1,
        "context_dim": 2048,
        "num_head_channels": 64,
        "num_classes": "sequential",
        "use_spatial_transformer": True,
        "use_linear_in_transformer": True,
        "legacy": False,
        "use_checkpoint": False,
        "adm_in_channels": 2816,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }


@torch.no_grad()
def fill_parameters(module, seed):
    """Fill every parameter of `module` from `seed`; the host's layers start as uninitialised memory.

    Matrices and kernels are scaled by their fan-in, so that signals neither vanish nor explode. Embeddings
    and the text encoder's residual branches have the small scale of the real CLIP (0.02), so that a token
    keeps its identity through the layers and prompts differ.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(parameter, std):
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    for name, layer in module.named_modules():
        if isinstance(layer, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
            if layer.weight is not None:  # Flux has norms without
                torch.nn.init.ones_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
        elif isinstance(layer, torch.nn.Embedding):
            draw(layer.weight, 0.02)
        elif isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):
            gain = 0.02 if name.endswith(("self_attn.out_proj", "mlp.fc2")) else 1.0
            draw(layer.weight, gain * layer.weight[0].numel() ** -0.5)
            if layer.bias is not None:
                draw(layer.bias, 0.02 * gain)
    return module


def make_taesd(seed, channels=4):
    """A seeded TAESD, the smallest autoencoder that the host recognises inside an SD1.5 checkpoint."""
    taesd = fill_parameters(TAESD(latent_channels=channels), seed)
    taesd.vae_scale.data.fill_(SD15_LATENT_SCALE)
    return taesd


def tiny_model(seed=0, width=64, kind="sd15", context=768):
    """A MODEL: SD1.5's U-Net, `width` channels wide at every depth, for contexts so wide, in float32.

    kind: or one that the pack must refuse: `pruned` to 10 cross-attention blocks, `sdxl`, `fp8` weights.
    """
    if kind == "sdxl":
        config = comfy.supported_models.SDXL(sdxl_unet_config(width))
    else:
        config = comfy.supported_models.SD15(sd15_unet_config(width, kind == "pruned", context))
        config.unet_config["num_heads"] = 2  # SD15 sets 8, and heads of 8 channels cost a CPU four times as much
    patcher = build_model(config, seed)
    if kind == "fp8":
        patcher.model.diffusion_model.to(torch.float8_e4m3fn)
    return patcher


def build_model(config, seed, dtype=torch.float32):
    """A MODEL of one of the host's model configurations, with seeded random weights."""
    config.custom_operations = _EagerOps
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, device=torch.device("cpu"))
    fill_parameters(model.diffusion_model, seed)
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def tiny_control_net(seed=0, width=64, context=768):
    """A CONTROL_NET for `tiny_model`, in float32; its output layers are not zero, so it matters."""
    config = sd15_unet_config(width, context=context)
    del config["out_channels"], config["transformer_depth_output"]
    network = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, dtype=torch.float32, operations=_EagerOps)
    device = comfy.model_management.get_torch_device()
    return comfy.controlnet.ControlNet(fill_parameters(network, seed), load_device=device)


def tiny_clip(seed=0, layers=2, width=768, **config):
    """A CLIP: SD1.5's text encoder with the real tokenizer, `width` wide, `layers` deep, in float32. `config`: more
    entries of the text model's configuration."""
    sizes = {"hidden_size": width, "intermediate_size": width, "num_attention_heads": width // _HEAD}
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={
            "clip_l_model_config": {"num_hidden_layers": layers, **sizes, **config},
            "custom_operations": _EagerOps,
            "dtype": torch.float32,
            "initial_device": torch.device("cpu"),
        },
        disable_dynamic=True,
    )
    clip.tokenizer.clip_l.embedding_size = width  # of the stock embeddings that fit
    fill_parameters(clip.cond_stage_model, seed)
    return clip


def tiny_vae(seed=0, channels=4):
    """A VAE: TAESD, in float32. SD1.5's latents have 4 channels, Flux's 16."""
    return comfy.sd.VAE(sd=make_taesd(seed, channels).state_dict(), dtype=torch.float32)
