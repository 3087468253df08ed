"""Write small Florence-2 and SAM2 models, with seeded random weights, in the formats that users' files have.

    python tests/small_vision.py <models folder>

florence2/tiny         transformers' native format; finds two boxes around the middle, which depend on the picture
florence2/tiny-blind   the same, finds nothing
sam2/tiny              transformers' converted format
sam2/tiny.pt, .yaml    the sam2 package's format, with a configuration of its own
sam2/tiny-converted    the same weights under transformers' names, saved as Meta's own folders on the hub are
"""

import hashlib
import re
import sys
from importlib.metadata import version
from pathlib import Path

from model_cache import cached_models

SIDE = 256  # pixels a side inside sam2/tiny; the others have SAM2's own 1024

SAM2_YAML = """
model:
  _target_: sam2.modeling.sam2_base.SAM2Base
  image_encoder:
    _target_: sam2.modeling.backbones.image_encoder.ImageEncoder
    scalp: 1
    trunk:
      _target_: sam2.modeling.backbones.hieradet.Hiera
      embed_dim: 16
      num_heads: 1
      stages: [1, 1, 2, 1]
      global_att_blocks: [3]
      window_pos_embed_bkg_spatial_size: [7, 7]
    neck:
      _target_: sam2.modeling.backbones.image_encoder.FpnNeck
      position_encoding:
        _target_: sam2.modeling.position_encoding.PositionEmbeddingSine
        num_pos_feats: 32
        normalize: true
        scale: null
        temperature: 10000
      d_model: 32
      backbone_channel_list: [128, 64, 32, 16]
      fpn_top_down_levels: [2, 3]
      fpn_interp_model: nearest
  memory_attention:
    _target_: sam2.modeling.memory_attention.MemoryAttention
    d_model: 32
    pos_enc_at_input: true
    layer:
      _target_: sam2.modeling.memory_attention.MemoryAttentionLayer
      activation: relu
      dim_feedforward: 32
      dropout: 0.1
      pos_enc_at_attn: false
      self_attention:
        _target_: sam2.modeling.sam.transformer.RoPEAttention
        rope_theta: 10000.0
        feat_sizes: [64, 64]
        embedding_dim: 32
        num_heads: 1
        downsample_rate: 1
        dropout: 0.1
      d_model: 32
      pos_enc_at_cross_attn_keys: true
      pos_enc_at_cross_attn_queries: false
      cross_attention:
        _target_: sam2.modeling.sam.transformer.RoPEAttention
        rope_theta: 10000.0
        feat_sizes: [64, 64]
        rope_k_repeat: true
        embedding_dim: 32
        num_heads: 1
        downsample_rate: 1
        dropout: 0.1
        kv_in_dim: 16
    num_layers: 1
  memory_encoder:
    _target_: sam2.modeling.memory_encoder.MemoryEncoder
    out_dim: 16
    in_dim: 32
    position_encoding:
      _target_: sam2.modeling.position_encoding.PositionEmbeddingSine
      num_pos_feats: 16
      normalize: true
      scale: null
      temperature: 10000
    mask_downsampler:
      _target_: sam2.modeling.memory_encoder.MaskDownSampler
      embed_dim: 32
      kernel_size: 3
      stride: 2
      padding: 1
    fuser:
      _target_: sam2.modeling.memory_encoder.Fuser
      layer:
        _target_: sam2.modeling.memory_encoder.CXBlock
        dim: 32
        kernel_size: 7
        padding: 3
        layer_scale_init_value: 1.0e-06
        use_dwconv: true
      num_layers: 1
  num_maskmem: 7
  image_size: 1024
  use_high_res_features_in_sam: true
  multimask_output_in_sam: true
  directly_add_no_mem_embed: true
  no_obj_embed_spatial: true
  iou_prediction_use_sigmoid: true
  use_obj_ptrs_in_encoder: true
  pred_obj_scores: true
  pred_obj_scores_mlp: true
  fixed_no_obj_ptr: true
  use_mlp_for_obj_ptr_proj: true
"""


def write_sam2_package(folder: Path, seed: int = 0) -> None:
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    torch.manual_seed(seed)
    model = instantiate(OmegaConf.create(SAM2_YAML).model, _recursive_=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(SAM2_YAML)
    torch.save({"model": model.state_dict()}, folder / "tiny.pt")


def _sam2_config(side: int) -> dict:
    """The same architecture as `SAM2_YAML`, for transformers."""
    grid = side // 16
    return {
        "vision_config": {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 16,
                "num_attention_heads": 1,
                "image_size": [side, side],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [16, 32, 64, 128],
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": [8, 4, 14, 7],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [128, 64, 32, 16],
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[4 * grid, 4 * grid], [2 * grid, 2 * grid], [grid, grid]],
        },
        "prompt_encoder_config": {"hidden_size": 32, "image_size": side},
        "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 2048, "num_attention_heads": 8},
    }


def _sam2_image_processor():
    import transformers

    name = "Sam2ImageProcessor"
    return getattr(transformers, name if hasattr(transformers, name) else f"{name}Fast")  # its name in transformers 4


def write_sam2_transformers(folder: Path, seed: int = 0, checkpoint: Path | None = None) -> None:
    """With weights of its own, or those of a sam2 package's checkpoint."""
    import torch
    from transformers import Sam2Config, Sam2Model, Sam2Processor

    torch.manual_seed(seed)
    model = Sam2Model(Sam2Config(**_sam2_config(SIDE)))
    if checkpoint is not None:
        model.load_state_dict(_fitting(model, checkpoint))
    model.save_pretrained(folder)
    images = _sam2_image_processor()(size={"height": SIDE, "width": SIDE}, mask_size={"height": SIDE // 4, "width": SIDE // 4})
    Sam2Processor(images, target_size=SIDE).save_pretrained(folder)


def converted(weights: dict) -> dict:
    """A sam2 package's image weights under the names of transformers' Sam2Model."""
    import torch

    rules = [
        (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
        (r"^image_encoder\.neck\.", "vision_encoder.neck."),
        (r"(neck\.convs\.\d)\.conv\.", r"\1."),
        (r"patch_embed\.proj\.", "patch_embed.projection."),
        (r"^sam_", ""),
        (r"\.norm(\d)\.", r".layer_norm\1."),
        (r"norm_final_attn", "layer_norm_final_attn"),
        (r"(backbone\.blocks\.\d+\.mlp|transformer\.layers\.\d\.mlp)\.layers\.0\.", r"\1.proj_in."),
        (r"(backbone\.blocks\.\d+\.mlp|transformer\.layers\.\d\.mlp)\.layers\.1\.", r"\1.proj_out."),
        (r"(hypernetworks_mlps\.\d|_head)\.layers\.0\.", r"\1.proj_in."),
        (r"(hypernetworks_mlps\.\d|_head)\.layers\.1\.", r"\1.layers.0."),
        (r"(hypernetworks_mlps\.\d|_head)\.layers\.2\.", r"\1.proj_out."),
        (r"mask_downscaling\.0\.", "mask_embed.conv1."),
        (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
        (r"mask_downscaling\.3\.", "mask_embed.conv2."),
        (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
        (r"mask_downscaling\.6\.", "mask_embed.conv3."),
        (r"output_upscaling\.0\.", "upscale_conv1."),
        (r"output_upscaling\.1\.", "upscale_layer_norm."),
        (r"output_upscaling\.3\.", "upscale_conv2."),
        (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
        (r"^no_mem_embed$", "no_memory_embedding"),
    ]
    renamed = {}
    for name, value in weights.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    points = [renamed.pop(f"prompt_encoder.point_embeddings.{i}.weight") for i in range(4)]
    renamed["prompt_encoder.point_embed.weight"] = torch.cat(points)
    renamed["shared_image_embedding.positional_embedding"] = renamed["prompt_encoder.shared_embedding.positional_embedding"]
    return renamed


def _fitting(model, checkpoint: Path) -> dict:
    """The weights of a sam2 package's checkpoint that a transformers model has, by its names."""
    import torch

    own = model.state_dict()
    weights = {}
    for name, value in converted(torch.load(checkpoint, weights_only=True)["model"]).items():
        name = name if name in own else name.replace("out_proj", "o_proj")  # the name in memory changed in transformers 5
        if name in own and own[name].shape == value.shape:
            weights[name] = value
    return weights


def write_sam2_converted(folder: Path, checkpoint: Path) -> None:
    """Saved as a video model, with whose files image models are loaded: so are Meta's own folders on the hub."""
    from transformers import Sam2VideoConfig, Sam2VideoModel, Sam2VideoProcessor, Sam2VideoVideoProcessor

    model = Sam2VideoModel(
        Sam2VideoConfig(
            **_sam2_config(1024),
            image_size=1024,
            memory_attention_hidden_size=32,
            memory_attention_num_layers=1,
            memory_attention_feed_forward_hidden_size=32,
            memory_attention_rope_feat_sizes=[64, 64],
            memory_encoder_hidden_size=32,
            memory_encoder_output_channels=16,
            mask_downsampler_embed_dim=32,
            memory_fuser_embed_dim=32,
            memory_fuser_intermediate_dim=64,
            memory_fuser_num_layers=1,
            memory_attention_num_attention_heads=1,
        )
    )
    model.load_state_dict(_fitting(model, checkpoint), strict=False)
    model.save_pretrained(folder)
    size = {"height": 1024, "width": 1024}
    Sam2VideoProcessor(_sam2_image_processor()(size=size), Sam2VideoVideoProcessor(size=size)).save_pretrained(folder)


def write_florence2(folder: Path, boxes: int = 2, seed: int = 0) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import (
        BartTokenizerFast,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    torch.manual_seed(seed)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<image>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.add_tokens([f"<loc_{i}>" for i in range(1000)])
    fast = BartTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens={"image_token": "<image>"})
    size = {"height": 64, "width": 64}
    images = CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False, resample=3)
    images.image_seq_length = 5
    config = Florence2Config(
        vision_config={
            "depths": [1, 1, 1, 1],
            "embed_dim": [8, 16, 32, 64],
            "num_heads": [1, 2, 4, 8],
            "num_groups": [1, 2, 4, 8],
            "window_size": 2,
            "projection_dim": 32,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": len(fast),
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 1200,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_bos_token_id": 0,
            "forced_eos_token_id": 2,
        },
        image_token_id=fast.convert_tokens_to_ids("<image>"),
    )
    model = Florence2ForConditionalGeneration(config)
    settings = {
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "no_repeat_ngram_size": 3,
        "num_beams": 3,
        "early_stopping": True,
    }
    model.generation_config.update(**settings)
    _give_grammar(model, fast, boxes)
    parsed = ("pure_text", "ocr", "description_with_bboxes", "bboxes", "polygons", "description_with_bboxes_or_polygons")
    parsing = {**{task: {} for task in parsed}, "phrase_grounding": {"banned_grounding_tokens": ["it", "this"]}}
    processor = Florence2Processor(images, fast, post_processor_config=parsing)
    _let_the_picture_through(model, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _give_grammar(model, tokenizer, boxes: int) -> None:
    """Let the answer have the form dog<loc><loc><loc><loc>..., each box one around the middle.

    A token's kind has an axis of its own in the embedding space, and each position of the answer points along one.
    """
    import torch

    spelt = {"d": "d", "o": "o", "g": "g", ".": "</s>"}
    kinds = {name: tokenizer.convert_tokens_to_ids([token]) for name, token in spelt.items()}
    places = tokenizer.convert_tokens_to_ids([f"<loc_{i}>" for i in range(1000)])
    kinds |= {"first corner": places[50:450], "second corner": places[550:950]}
    answer = [*"dog", *(["first corner"] * 2 + ["second corner"] * 2) * boxes, "."] if boxes else ["."]
    decoder = next(module for module in model.modules() if type(module).__name__ == "BartDecoder")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and module is not model.lm_head:
                module.reset_parameters()  # those of a fresh model let hardly anything through
        for layer in decoder.layers:
            for module in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
                module.weight[: len(kinds)], module.bias[: len(kinds)] = 0, 0
        tokens = model.get_input_embeddings().weight
        tokens[:, : len(kinds)] = 0
        tokens *= 2 / tokens.norm(dim=1, keepdim=True).clamp(min=1e-6)  # the padding is all zeros
        for axis, members in enumerate(kinds.values()):
            tokens[members, axis] = 8.0
        # The table begins with two unused rows; all answers begin with </s><s>.
        for row, kind in enumerate(answer, start=3):
            decoder.embed_positions.weight[row] = 0
            decoder.embed_positions.weight[row, list(kinds).index(kind)] = 40.0


def _let_the_picture_through(model, processor) -> None:
    """Scale what the decoder gets from the encoder so that it differs between pictures, and therefore the places do."""
    import numpy as np
    import torch
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 3), dtype=np.uint8)
    pictures = [Image.fromarray(p).resize((64, 64)) for p in pixels]
    inputs = processor(text=["<CAPTION_TO_PHRASE_GROUNDING>the dog"] * len(pictures), images=pictures, return_tensors="pt")
    gate = next(module for module in model.modules() if type(module).__name__ == "BartDecoder").layers[0].encoder_attn.out_proj
    seen = []
    hook = gate.register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        model.eval()(**inputs, decoder_input_ids=torch.tensor([[2, 0, 10, 10]] * len(pictures)))
        hook.remove()
        scale = 0.5 / seen[0].std(0).mean()
        gate.bias.copy_((gate.bias - seen[0].mean((0, 1))) * scale)
        gate.weight *= scale


def write_all(models_folder: Path) -> None:
    write_florence2(models_folder / "florence2" / "tiny")
    write_florence2(models_folder / "florence2" / "tiny-blind", boxes=0)
    write_sam2_transformers(models_folder / "sam2" / "tiny")
    write_sam2_package(models_folder / "sam2")
    write_sam2_converted(models_folder / "sam2" / "tiny-converted", models_folder / "sam2" / "tiny.pt")


def cached_small_vision(cache: Path) -> Path:
    """A models folder with all of them inside the folder `cache`; written first, by a process of its own, if not there."""
    key = hashlib.sha256(Path(__file__).read_bytes() + version("transformers").encode()).hexdigest()[:12]
    return cached_models(cache, "small-vision", key, __file__)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
