"""Textual Inversion embeddings of other tools: which of a file's tensors is the token, and what the file is if none is."""

from pathlib import Path
from typing import Any

import torch

from .concept import UNFIT_IN_PROMPTS, PersonalizedToken, is_text
from .pickled import Held
from .reading import BadFile, shown_text
from .token_check import Shapes, build_embedding, check_token

# ComfyUI and kohya; A1111's safetensors; OneTrainer, as it spells it
_KNOWN = ("clip_l", "emb_params", "emp_params")
_FOR_SD15 = "Use an embedding that was trained for Stable Diffusion 1.5."
_INNER_LAYERS = {f"{part}{i:02d}" for part, numbers in {"IN": (1, 2, 4, 5, 7, 8), "OUT": range(3, 12)}.items() for i in numbers}


def choose_vectors(name: str, shapes: Shapes) -> str:
    """The key of the tensor that is a token's vectors.

    Raises:
        BadFile: there is none that this pack can use; says what the file is. name: of the file.
    """
    keys = set(shapes)
    if "clip_g" in keys:
        which = "clip_l and clip_g" if "clip_l" in keys else "clip_g, its second text encoder"
        raise BadFile(f"{name} is an embedding for SDXL (of {which}), which Stable Diffusion 1.5 does not have. {_FOR_SD15}")
    if "emp_params_out" in keys or "clip_l_out" in keys:
        raise BadFile(
            f"{name} is an output embedding of OneTrainer: its vectors go behind the text encoder, where prompts in ComfyUI "
            "have no place for them. Train it without 'output embedding'."
        )
    if keys == {*_INNER_LAYERS, "MID"}:
        raise BadFile(
            f"{name} is an XTI (P+) embedding of kohya's scripts, with other vectors for each layer of the U-Net, which is not "
            "supported. Use a Textual Inversion embedding or a NeTI token."
        )
    known = [key for key in _KNOWN if key in keys]
    if known or len(keys) == 1:
        return (known or list(keys))[0]
    raise BadFile(
        f"{name} holds no token: neither a personalised token of this pack nor the vectors of a Textual Inversion embedding, "
        f"but {len(keys)} tensors such as {shown_text(min(keys, default='none'))}. Choose a file that is one of these."
    )


def tensors_of(name: str, content: Any) -> tuple[dict[str, torch.Tensor], str | None]:
    """The tensors of a PyTorch file's content by name, and the name that A1111 and LDM give the token inside (or None).

    Raises:
        BadFile: it holds no embedding.
    """
    inner = None
    if isinstance(content, dict) and "string_to_param" in content:
        given = content.get("name")
        inner = given if isinstance(given, str) else None
        parameters = content["string_to_param"]
        if isinstance(parameters, Held):  # LDM's embeddings.pt: a ParameterDict
            parameters = parameters.attributes.get("_parameters")
        content = parameters
        if isinstance(content, dict) and len(content) == 1:
            content = {"emb_params": next(iter(content.values()))}
    if isinstance(content, dict) and "mappers" in content:
        raise BadFile(
            f"{name} holds mappers of a kind that has several (as ViewNeTI), which are not supported. Use a NeTI mapper of one "
            "subject, or a Textual Inversion embedding."
        )
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        raise BadFile(
            f"{name} holds no embedding: it is a whole model or the state of a training. Choose a Textual Inversion or NeTI "
            "file."
        )
    pairs = content.items() if isinstance(content, dict) else ()
    found = {key: value.detach() for key, value in pairs if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not found:
        raise BadFile(f"{name} holds no embedding. Choose a Textual Inversion or NeTI file.")
    return found, inner


def embedding_token(path: Path, key: str, vectors: torch.Tensor, inner: str | None = None) -> PersonalizedToken:
    """The token of an embedding file: named as diffusers names it, by its key, or else by the file.

    inner: A1111's other name, which goes into the record; people write the file's.
    """
    embedding = build_embedding(path.name, vectors)
    named = key not in _KNOWN and is_text(key) and key and not any(c.isspace() or c in UNFIT_IN_PROMPTS for c in key)
    record = {"source": "Textual Inversion embedding"}
    if inner is not None and inner != path.stem:
        record["name_in_file"] = shown_text(inner)
    width = embedding.vectors.shape[1]
    token = PersonalizedToken(
        key if named else stem_placeholder(path), "", "textual_inversion", width, embedding, record=record
    )
    return check_token(token, path.name)


def stem_placeholder(path: Path) -> str:
    """A word for prompts out of a file's name: `my dog (2).pt` -> `<my-dog-2>`."""
    stem = "".join(" " if c.isspace() or c in UNFIT_IN_PROMPTS or c in "<>" or not c.isprintable() else c for c in path.stem)
    return f"<{'-'.join(stem.split())[:100].strip('-') or 'token'}>"
