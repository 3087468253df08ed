"""The token's file: safetensors with a JSON header; and every other format a token can be read from."""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .concept import Embedding, PersonalizedToken, Representation
from .mapper import NeTIMapper
from .official import holds_mapper, load_learned_embeds, load_official_mapper
from .storage import replacing

FORMAT = "attractor-token"
VERSION = 1
EXTENSIONS = (".safetensors", ".pt", ".bin")


def save_token(token: PersonalizedToken, path: str | os.PathLike) -> None:
    """Write a token with its attractors.

    Tensors `subject.*` and `attractor_<i>.*` (float32); metadata key `attractor` holds the JSON header: format,
    version, kind, placeholder, super_category, width, the representations' configurations, training record.
    """
    tensors, configs = {}, {}
    for name, concept in _parts(token).items():
        for key, value in concept.state_dict().items():
            tensors[f"{name}.{key}"] = value.detach().cpu().contiguous().clone()
        configs[name] = concept.config if isinstance(concept, NeTIMapper) else {"vectors": concept.count}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "kind": token.kind,
        "placeholder": token.placeholder,
        "super_category": token.super_category,
        "width": token.width,
        "representations": configs,
        "record": token.record,
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"attractor": json.dumps(header)})


def save_embedding(vectors: Tensor, path: str | os.PathLike) -> None:
    """Write (n, width) vectors as a stock embedding, `{"clip_l": (n, width)}`, for `embedding:name`."""
    with replacing(path) as temporary:
        save_file({"clip_l": vectors.detach().cpu().float().contiguous().clone()}, temporary)


def load_token(path: str | os.PathLike) -> PersonalizedToken:
    """Read a token: ours, an official NeTI `mapper-*.pt`, or a Textual Inversion embedding.

    Beside an official mapper, `learned_embeds-*.bin` of the same name gives the placeholder if it is there.

    Raises:
        ValueError: what the file is instead, by name; nothing in the file is ever executed.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no token file {path.name}.")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if holds_mapper(path):
        return _load_official(path)
    mapper = path.with_name(path.name.replace("learned_embeds", "mapper")).with_suffix(".pt")
    if "learned_embeds" in path.name and mapper.is_file():  # its vector is the super-category's, never trained
        raise ValueError(f"{path.name} only names the NeTI token that lies beside it. Choose {mapper.name}.")
    return _from_embeddings(path, load_learned_embeds(path))


def _parts(token: PersonalizedToken) -> dict[str, Representation]:
    return {"subject": token.subject, **{f"attractor_{i}": a for i, a in enumerate(token.attractors)}}


def _load_safetensors(path: Path) -> PersonalizedToken:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no __iter__)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is not a readable safetensors file ({error}). Get it again.") from error
    if "attractor" not in metadata:
        return _from_embeddings(path, tensors)
    try:
        header = json.loads(metadata["attractor"])
        if header["format"] != FORMAT or header["version"] > VERSION:
            raise ValueError(
                f"{path.name} has format {header['format']} version {header['version']}; this version "
                f"of the pack reads {FORMAT} up to {VERSION}: update the pack."
            )
        concepts = {
            name: _rebuild(config, {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
            for name, config in header["representations"].items()
        }
        attractors = [concepts[f"attractor_{i}"] for i in range(len(concepts) - 1)]
        return PersonalizedToken(
            header["placeholder"],
            header["super_category"],
            header["kind"],
            header["width"],
            concepts["subject"],
            tuple(attractors),
            header["record"],
        )
    except (KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} is damaged: its header or tensors do not fit ({error}). Get it again.") from error


def _rebuild(config: dict, state: dict[str, Tensor]) -> Representation:
    if "vectors" in config:
        return Embedding(state["vectors"])
    mapper = NeTIMapper(**config, seed=0)
    mapper.load_state_dict(state)
    return mapper


def _load_official(path: Path) -> PersonalizedToken:
    mapper, info = load_official_mapper(path)
    placeholder = info["placeholder"]
    companion = path.with_name(path.name.replace("mapper", "learned_embeds")).with_suffix(".bin")
    if companion.stem != path.stem and companion.is_file():
        placeholder = next(iter(load_learned_embeds(companion)), placeholder)
    return PersonalizedToken(
        placeholder or f"<{path.stem}>",
        info["super_category"] or "",
        "neti",
        mapper.width,
        mapper,
        record={"source": "official NeTI checkpoint", **{k: v for k, v in info.items() if v is not None}},
    )


def _from_embeddings(path: Path, tensors: dict[str, Tensor]) -> PersonalizedToken:
    """A plain embedding file: one token's vectors, (width,) or (n, width)."""
    known: list[str] = [name for name in ("clip_l", "emb_params") if name in tensors]
    names = known or list(tensors)
    name = names[0] if known or len(names) == 1 else None  # several of other names: a LoRA or a whole model
    if name is None or not 1 <= tensors[name].ndim <= 2 or not torch.is_floating_point(tensors[name]):
        raise ValueError(
            f"{path.name} holds no token: neither a personalised token of this pack nor the vectors "
            "of a Textual Inversion embedding. Choose a file that is one of these."
        )
    vectors = tensors[name].reshape(-1, tensors[name].shape[-1])
    is_name = name.startswith("<") or name not in ("clip_l", "emb_params")
    placeholder = name if is_name and not any(c.isspace() for c in name) else f"<{path.stem}>"
    return PersonalizedToken(
        placeholder,
        "",
        "textual_inversion",
        vectors.shape[1],
        Embedding(vectors),
        record={"source": "Textual Inversion embedding"},
    )
