"""Custom Diffusion's files: diffusers' pair (weights, and the token beside them) and the original delta.bin.

All hold whole keys and values of the 16 cross-attentions, not differences: on another base model they would replace its own.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .concept import PersonalizedToken, placeholder_problem
from .reading import BadFile, check_size, read_safetensors
from .storage import replacing
from .token_check import build_embedding, check_token, numbers
from .torch_file import read_pickle
from .tuned import PREFIX

WEIGHTS_FILE, TOKEN_FILE = "pytorch_custom_diffusion_weights.safetensors", "token.safetensors"
_LARGEST_TOKEN = 1024**2
_OF_DIFFUSERS = re.compile(r"(.+\.attn2)\.(?:processor\.)?(to_[kv])(?:_custom_diffusion)?\.weight")
_UP = [f"up_blocks.{i}.attentions.{j}" for i in (1, 2, 3) for j in range(3)]
_DOWN = [f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)]
# diffusers' names of the blocks -> the original's, which the host has
BLOCKS = {
    **{name: f"input_blocks.{i}.1" for name, i in zip(_DOWN, (1, 2, 4, 5, 7, 8), strict=True)},
    "mid_block.attentions.0": "middle_block.1",
    **{name: f"output_blocks.{i}.1" for name, i in zip(_UP, range(3, 12), strict=True)},
}
ATTENTIONS = {f"{theirs}.transformer_blocks.0.attn2": f"{ours}.transformer_blocks.0.attn2" for theirs, ours in BLOCKS.items()}


def is_custom_diffusion(keys: object) -> bool:
    """Whether names of tensors are those of diffusers' file with weights, or parts of a delta.bin."""
    names = [key for key in keys if isinstance(key, str)] if isinstance(keys, list | tuple | set | dict) else []
    return {"unet", "modifier_token"} <= set(names) or any("attn2.processor.to_" in name for name in names)


def load_custom_diffusion(path: Path, content: Mapping[str, Any]) -> PersonalizedToken:
    """The token and weights of a delta.bin, or of diffusers' file with the token's file beside it (`<new1>.bin`).

    content: of the file. In prompts the class goes behind the placeholder, as in training: "a <new1> cat".

    Raises:
        BadFile: a part is missing or damaged, or there are several tokens.
    """
    if "modifier_token" in content:
        weights, tokens = content["unet"], content["modifier_token"]
    else:
        weights, tokens = content, _tokens_beside(path)
    found = {}
    for name, tensor in weights.items() if isinstance(weights, dict) else ():
        match = _OF_DIFFUSERS.fullmatch(name) if isinstance(name, str) else None
        if match and match[1] in ATTENTIONS:
            found[f"{PREFIX}{ATTENTIONS[match[1]]}.{match[2]}.set_weight"] = numbers(path.name, name, tensor)
    if len(found) != 2 * len(ATTENTIONS):
        raise BadFile(
            f"{path.name} has {len(found)} of the {2 * len(ATTENTIONS)} keys and values of Custom Diffusion for Stable "
            "Diffusion 1.x. Get it again."
        )
    if not isinstance(tokens, dict) or len(tokens) != 1:
        names = ", ".join(sorted(map(str, tokens))) if isinstance(tokens, dict) else "none"
        raise BadFile(f"{path.name} needs one token beside it, such as <new1>.bin, and there are: {names or 'none'}.")
    ((placeholder, vector),) = tokens.items()
    if placeholder_problem(placeholder, lambda word: False):
        placeholder = "<new1>"
    embedding = build_embedding(path.name, vector)
    record = {"source": "Custom Diffusion weights", "settings": {"method": "custom_diffusion"}}
    token = PersonalizedToken(
        placeholder, "", "textual_inversion", embedding.vectors.shape[1], embedding, record=record, weights=found
    )
    return check_token(token, path.name)


def _tokens_beside(path: Path) -> dict[str, Tensor]:
    """The tokens in small files beside one with weights."""
    found: dict[str, Tensor] = {}
    for other in sorted(path.parent.iterdir()):
        named = other.name == TOKEN_FILE or (other.stem.startswith("<") and other.stem.endswith(">"))
        if named and other.suffix in (".safetensors", ".bin") and other.is_file():
            check_size(other, _LARGEST_TOKEN, "a token's file")
            content = read_safetensors(other) if other.suffix == ".safetensors" else read_pickle(other)
            found |= {key: value for key, value in content.items() if isinstance(value, Tensor)}
    return found


def save_for_diffusers(tensors: Mapping[str, nn.Parameter], token: PersonalizedToken, folder: Path) -> None:
    """Write what `load_attn_procs` and `load_textual_inversion` of diffusers read.

    tensors: the learnt keys and values by the host's names.
    """
    theirs = {ours: name for name, ours in ATTENTIONS.items()}
    # diffusers wants every attention named; those without weights by something of length 0, which its own .bin files have.
    named = {f"{name.replace('attn2', 'attn1')}.processor": torch.zeros(0) for name in ATTENTIONS}
    for name, tensor in tensors.items():
        attention, part = name.removesuffix(".weight").rsplit(".", 1)
        named[f"{theirs[attention]}.processor.{part}_custom_diffusion.weight"] = tensor.detach().cpu().contiguous()
    vectors = token.subject.state_dict()["vectors"].cpu()
    for file, content in ((WEIGHTS_FILE, named), (TOKEN_FILE, {token.placeholder: vectors[0].clone()})):
        with replacing(folder / file) as temporary:
            save_file(content, temporary)
