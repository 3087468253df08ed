"""Embeddings of other tools, for all layers of the U-Net or one for each: which of a file's tensors is the token, and what the
file is if none is."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .concept import LAYERS, UNFIT_IN_PROMPTS, LayeredEmbedding, PersonalizedToken, is_text
from .mixing import MOST_VECTORS
from .pickled import Held
from .reading import BadFile, shown_text
from .token_check import Shapes, build_embedding, check_token, embedding_shape, numbers

# ComfyUI and kohya; A1111's safetensors; OneTrainer, as it spells it
_KNOWN = ("clip_l", "emb_params", "emp_params")
_FOR_SD15 = "Use an embedding that was trained for Stable Diffusion 1.5."
# kohya's names of the U-Net's cross-attention layers, in execution order
LAYER_NAMES = (*(f"IN{i:02d}" for i in (1, 2, 4, 5, 7, 8)), "MID", *(f"OUT{i:02d}" for i in range(3, 12)))


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
    known = [key for key in _KNOWN if key in keys]
    if known or len(keys) == 1:
        return (known or list(keys))[0]
    raise BadFile(
        f"{name} holds no token: neither a personalised token of this pack nor the vectors of a Textual Inversion embedding, "
        f"but {len(keys)} tensors such as {shown_text(min(keys, default='none'))}. Choose a file that is one of these."
    )


def layer_keys(keys: Iterable[str]) -> list[str] | None:
    """The keys of an XTI (P+) embedding, which has one for each layer of the U-Net, in the order of layers; None if it is none.

    kohya's scripts name the layers, prompt-plus numbers them: `<x>-0` to `<x>-15`.
    """
    found = set(keys)
    if found == set(LAYER_NAMES):
        return list(LAYER_NAMES)
    numbered = [f"{next(iter(found)).rpartition('-')[0]}-{layer}" for layer in range(LAYERS)] if found else []
    return numbered if found == set(numbered) else None


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
    named = key not in _KNOWN and _fits_prompts(key)
    record = {"source": "Textual Inversion embedding"}
    if inner is not None and inner != path.stem:
        record["name_in_file"] = shown_text(inner)
    width = embedding.vectors.shape[1]
    token = PersonalizedToken(
        key if named else stem_placeholder(path), "", "textual_inversion", width, embedding, record=record
    )
    return check_token(token, path.name)


def layered_token(path: Path, keys: list[str], tensors: dict[str, torch.Tensor]) -> PersonalizedToken:
    """The token of an XTI file, whose `layer_keys` these are. If all layers are equal, it is a plain embedding.

    Raises:
        BadFile: the layers do not fit together, or are beyond what a token can be.
    """
    shapes = {embedding_shape(path.name, tuple(tensors[key].shape)) for key in keys}
    count, width = next(iter(shapes))
    if len(shapes) > 1 or count > MOST_VECTORS:
        raise BadFile(
            f"{path.name} is damaged: an XTI embedding has the same number of vectors for each layer of the U-Net, "
            f"{MOST_VECTORS} at most, and all of one width. Get it again."
        )
    vectors = torch.stack([numbers(path.name, key, tensors[key]).reshape(count, width) for key in keys])
    record = {"source": "XTI (P+) embedding"}
    prefix = keys[0].removesuffix("-0") if keys[0] != LAYER_NAMES[0] else ""
    placeholder = prefix if _fits_prompts(prefix) else stem_placeholder(path)
    if bool((vectors == vectors[0]).all()):
        token = PersonalizedToken(
            placeholder, "", "textual_inversion", width, build_embedding(path.name, vectors[0]), record=record
        )
    else:
        token = PersonalizedToken(placeholder, "", "xti", width, LayeredEmbedding(vectors), record=record)
    return check_token(token, path.name)


def _fits_prompts(name: str) -> bool:
    return is_text(name) and bool(name) and not any(c.isspace() or c in UNFIT_IN_PROMPTS for c in name)


def stem_placeholder(path: Path) -> str:
    """A word for prompts out of a file's name: `my dog (2).pt` -> `<my-dog-2>`."""
    stem = "".join(" " if c.isspace() or c in UNFIT_IN_PROMPTS or c in "<>" or not c.isprintable() else c for c in path.stem)
    return f"<{'-'.join(stem.split())[:100].strip('-') or 'token'}>"
