"""The token's file: safetensors with a JSON header; and every other format a token can be read from."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from .concept import PersonalizedToken, Representation, config_of
from .custom_diffusion import is_custom_diffusion, load_custom_diffusion
from .embeddings import choose_vectors, embedding_token, layer_keys, layered_token, stem_placeholder, tensors_of
from .lora_names import in_kohyas_names
from .official import CLASSES, is_mapper, mapper_of
from .reading import BadFile, conform, read_safetensors, reading, safetensors_header, shown
from .storage import replacing
from .token_check import Shapes, TokenHeader, check_shapes, check_token, check_weights, embedding_shape, numbers
from .token_parts import build, needs_version, read_config, shapes_of
from .torch_file import read_pickle
from .tuned import PREFIX

FORMAT = "attractor-token"
VERSION = 2  # 1: without phrase, weights, mixes and embeddings by layer; written where none of them is
EXTENSIONS = (".safetensors", ".sft", ".pt", ".bin")
_SAFETENSORS = (".safetensors", ".sft")


def save_token(token: PersonalizedToken, path: str | os.PathLike) -> None:
    """Write a token with its attractors.

    Tensors `subject.*` and `attractor_<i>.*` (float32), and those of `weights` under their own names, so that the file is a
    LoRA file too; metadata key `attractor` holds the JSON header: format, version, kind, placeholder, super_category, width,
    the representations' configurations, training record, and the phrase where there is one.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in token.weights.items()}
    configs = {}
    for name, concept in _parts(token).items():
        for key, value in concept.state_dict().items():
            tensors[f"{name}.{key}"] = value.detach().cpu().contiguous().clone()
        configs[name] = config_of(concept)
    header = {
        "format": FORMAT,
        "version": _version(token),
        "kind": token.kind,
        "placeholder": token.placeholder,
        "super_category": token.super_category,
        "width": token.width,
        "representations": configs,
        "record": token.record,
        **({"phrase": token.phrase} if token.phrase != "{}" else {}),
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"attractor": json.dumps(header)})


def save_lora(weights: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Write a token's `weights` as a file for the stock Load LoRA; low-rank ones for other programs too."""
    named = in_kohyas_names(weights)
    with replacing(path) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in named.items()}, temporary)


def save_embedding(vectors: Tensor, path: str | os.PathLike) -> None:
    """Write (n, width) vectors as a stock embedding, `{"clip_l": (n, width)}`, for `embedding:name`."""
    with replacing(path) as temporary:
        save_file({"clip_l": vectors.detach().cpu().float().contiguous().clone()}, temporary)


def load_token(path: str | os.PathLike) -> PersonalizedToken:
    """Read a token: ours, an official NeTI `mapper-*.pt`, or an embedding (Textual Inversion, XTI).

    Beside an official mapper, `learned_embeds-*.bin` of the same name gives the placeholder if it is there.

    Raises:
        BadFile: what the file is instead, by name; nothing in the file is ever executed.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no token file {path.name}.")
    with reading(path.name, "a token's file"):
        if path.suffix.lower() in _SAFETENSORS:
            return _load_safetensors(path)
        content = read_pickle(path, CLASSES)
        if is_mapper(content):
            return _from_official(path, content)
        if is_custom_diffusion(content):
            return load_custom_diffusion(path, content)
        mapper = path.with_name(path.name.replace("learned_embeds", "mapper")).with_suffix(".pt")
        if "learned_embeds" in path.name and mapper.is_file():  # its vector is the super-category's, never trained
            raise BadFile(f"{path.name} only names the NeTI token that lies beside it. Choose {mapper.name}.")
        tensors, inner = tensors_of(path.name, content)
        if layers := layer_keys(tensors):
            return layered_token(path, layers, tensors)
        key = choose_vectors(path.name, {key: tuple(value.shape) for key, value in tensors.items()})
        return embedding_token(path, key, tensors[key], inner)


def _parts(token: PersonalizedToken) -> dict[str, Representation]:
    return {"subject": token.subject, **{f"attractor_{i}": a for i, a in enumerate(token.attractors)}}


def _version(token: PersonalizedToken) -> int:
    """The first version of the format that knows what is in a token: older packs read all that they can."""
    return VERSION if token.weights or token.phrase != "{}" else max(map(needs_version, _parts(token).values()))


def _load_safetensors(path: Path) -> PersonalizedToken:
    metadata, shapes = safetensors_header(path)
    if "attractor" not in metadata and is_custom_diffusion(shapes):
        return load_custom_diffusion(path, read_safetensors(path))
    if "attractor" not in metadata:
        if layers := layer_keys(shapes):
            for layer in layers:  # before it is read: it may be a whole model's
                embedding_shape(path.name, shapes[layer])
            return layered_token(path, layers, read_safetensors(path))
        key = choose_vectors(path.name, shapes)
        embedding_shape(path.name, shapes[key])  # before it is read: it may be a whole model's
        return embedding_token(path, key, read_safetensors(path, [key])[key])
    header = _header(path, metadata["attractor"])
    names = "subject", *(f"attractor_{i}" for i in range(len(header.representations) - 1))
    configs = {name: read_config(path.name, header.representations[name]) for name in names}
    wanted: Shapes = {}
    for name, config in configs.items():
        wanted |= {f"{name}.{key}": shape for key, shape in shapes_of(config, header.width).items()}
    weights = {key: shape for key, shape in shapes.items() if header.version > 1 and key.startswith(PREFIX)}
    check_weights(path.name, weights)
    check_shapes(path.name, wanted, {key: shape for key, shape in shapes.items() if key not in weights})
    tensors = read_safetensors(path)
    subject, *attractors = (build(path.name, config, tensors, f"{name}.") for name, config in configs.items())
    token = PersonalizedToken(
        header.placeholder,
        header.super_category,
        header.kind,
        header.width,
        subject,
        tuple(attractors),
        header.record,
        header.phrase,
        {key: numbers(path.name, key, tensors.pop(key)) for key in weights},
    )
    return check_token(token, path.name)


def _header(path: Path, text: str) -> TokenHeader:
    content: Any = json.loads(text)
    if not isinstance(content, dict) or content.get("format") != FORMAT or type(content.get("version")) is not int:
        raise BadFile(f"{path.name} is damaged: its header is not that of a token ({FORMAT}). Get it again.")
    if content["version"] > VERSION:
        raise BadFile(
            f"{path.name} has format {FORMAT} version {shown(content['version'])}; this version of the pack reads {FORMAT} up "
            f"to {VERSION}: update the pack."
        )
    return conform(TokenHeader, content, path.name)


def _from_official(path: Path, content: Any) -> PersonalizedToken:
    mapper, info = mapper_of(path.name, content)
    placeholder = info["placeholder"]
    companion = path.with_name(path.name.replace("mapper", "learned_embeds")).with_suffix(".bin")
    if companion.stem != path.stem and companion.is_file():
        placeholder = next(iter(tensors_of(companion.name, read_pickle(companion, CLASSES))[0]), placeholder)
    token = PersonalizedToken(
        placeholder or stem_placeholder(path),
        info["super_category"] or "",
        "neti",
        mapper.width,
        mapper,
        record={"source": "official NeTI checkpoint", **{key: value for key, value in info.items() if value is not None}},
    )
    return check_token(token, path.name)
