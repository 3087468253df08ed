"""What every token must be, whatever file it comes from: kinds, shapes, types, finite numbers in a text encoder's range."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from .concept import CLASS_OF_KIND, LAYERS, LONGEST_TEXT, Embedding, PersonalizedToken, Representation, is_text, represent
from .mapper import TIMESTEPS, NeTIMapper
from .reading import BadFile, Checked, reading, shown, shown_text

MOST_VECTORS = 1_000  # a prompt's chunk holds 75
WIDEST = 8_192
MOST_TENSORS = 10_000  # of weights; a U-Net of SD1.5 has 686
WEIGHT_KINDS = (".diff", ".diff_b", ".lora_up.weight", ".lora_down.weight", ".alpha", ".set_weight")
LARGEST = 1e4  # of a value: half precision ends at 65,504, and layers add to it. Learnt vectors stay below 100

Shapes = dict[str, tuple[int, ...]]
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]  # of encodable characters: pydantic refuses lone surrogates
Width = Annotated[int, Field(ge=1, le=WIDEST)]


class MapperConfig(Checked):
    """What `NeTIMapper` is built from; bounds are far beyond what anyone trains."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")

    width: Width
    bypass: bool = True
    positional: bool = True
    norm_scale: Annotated[float, Field(gt=0, le=LARGEST)] | None = None
    hidden: Annotated[int, Field(ge=1, le=8_192)] = 128
    num_w: Annotated[int, Field(ge=1, le=65_536)] = 1024
    sigma_t: float = 0.03
    sigma_l: float = 2.0
    time_anchors: Annotated[int, Field(ge=1, le=TIMESTEPS)] = 10
    layers: Annotated[int, Field(ge=2, le=64)] = 16
    nested_dropout: Annotated[float, Field(ge=0, le=1)] = 0.5


class EmbeddingConfig(Checked):
    vectors: Annotated[int, Field(ge=1, le=MOST_VECTORS)]


class TokenHeader(Checked):
    """The header of this pack's own files; the representations' configurations are checked one by one."""

    placeholder: Text
    super_category: Text
    kind: Literal["neti", "textual_inversion", "xti", "mixed"]
    width: Width
    representations: dict[str, dict[str, Any]]
    record: dict[str, Any]
    version: int = 1
    phrase: Annotated[str, Field(max_length=2 * LONGEST_TEXT)] = "{}"


def embedding_shape(name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """(vectors, width) of an embedding's tensor.

    Raises:
        BadFile: it is not an embedding's. name: of the file.
    """
    count, width = shape if len(shape) == 2 else (1, *shape) if len(shape) == 1 else (0, 0)
    if not (1 <= count <= MOST_VECTORS and 1 <= width <= WIDEST):
        raise BadFile(
            f"{name} holds no token: its numbers have the shape {shown_text(str(list(shape)))}, and an embedding is 1 to "
            f"{MOST_VECTORS} vectors, each as wide as the text encoder (768 for Stable Diffusion 1.5). Choose another file."
        )
    return count, width


def build_embedding(name: str, vectors: Tensor) -> Embedding:
    """An embedding of a file's tensor, (n, width) or (width,).

    Raises:
        BadFile: it is none.
    """
    shape = embedding_shape(name, tuple(vectors.shape))
    return Embedding(numbers(name, "vectors", vectors).reshape(shape))


def mapper_shapes(config: MapperConfig) -> Shapes:
    """Shapes of a mapper's tensors, from its configuration alone: nothing is allocated before they are known to be there."""
    hidden, anchors = config.hidden, config.time_anchors * config.layers
    sizes = {
        "net.0": (hidden, anchors if config.positional else 2),
        "net.3": (hidden, hidden),
        "output_layer": (config.width * (2 if config.bypass else 1), hidden),
    }
    found: Shapes = {"encoder.w": (config.num_w, 2)} if config.positional else {}
    if config.positional:
        sizes["input_layer"] = (anchors, 2 * config.num_w)
    found |= {f"{norm}.{kind}": (hidden,) for norm in ("net.1", "net.4") for kind in ("weight", "bias")}
    return found | {f"{layer}.weight": size for layer, size in sizes.items()} | {f"{k}.bias": v[:1] for k, v in sizes.items()}


def check_shapes(name: str, wanted: Shapes, found: Shapes) -> None:
    """Whether a file has just the tensors that it should have.

    Raises:
        BadFile: tensors are missing, too many or of other shapes; says which.
    """
    for key in {**wanted, **found}:
        if wanted.get(key) != found.get(key):
            what = "is missing" if key not in found else f"has the shape {shown_text(str(list(found[key])))}"
            should = (
                f", and {list(wanted[key])} goes with its configuration" if key in wanted else ", and nothing like it belongs"
            )
            raise BadFile(f"{name} is damaged: {shown_text(key)} {what}{should}. Get it again.")


def check_weights(name: str, shapes: Shapes) -> None:
    """Whether tensors of a file are differences or low-rank additions to the weights of a U-Net.

    Raises:
        BadFile: one is not, or there are too many. name: of the file.
    """
    if len(shapes) > MOST_TENSORS:
        raise BadFile(f"{name} is damaged: it has {len(shapes):,} tensors of weights, and {MOST_TENSORS:,} is the most.")
    for key, shape in shapes.items():
        fits = key.endswith(WEIGHT_KINDS) and bool(shape) != key.endswith(".alpha")
        if key.endswith((".lora_up.weight", ".lora_down.weight")):
            module = key.rsplit(".", 2)[0]
            up, down = (shapes.get(f"{module}.lora_{part}.weight", ()) for part in ("up", "down"))
            fits = len(up) == len(down) == 2 and up[1] == down[0]
        if not fits:
            raise BadFile(f"{name} is damaged: {shown_text(key)} is no part of a LoRA file. Get it again.")


def build_mapper(name: str, config: MapperConfig, state: dict[str, Tensor]) -> NeTIMapper:
    """A mapper with the tensors of a file.

    Raises:
        BadFile: they do not belong to the configuration, or are not floating-point numbers.
    """
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise BadFile(f"{name} is damaged: {shown_text(key)} is {shown(value)}, not a tensor. Get it again.")
    check_shapes(name, mapper_shapes(config), {key: tuple(value.shape) for key, value in state.items()})
    mapper = NeTIMapper(**config.model_dump(exclude_unset=True), seed=0)
    mapper.load_state_dict({key: numbers(name, key, value) for key, value in state.items()})
    return mapper


def numbers(name: str, key: str, tensor: Tensor) -> Tensor:
    """A copy in float32.

    Raises:
        BadFile: they are not floating-point numbers, or not all finite.
    """
    if not torch.is_floating_point(tensor) or tensor.is_sparse or tensor.device.type != "cpu":
        kind = str(tensor.dtype).removeprefix("torch.")
        raise BadFile(
            f"{name} is damaged or not a token: {shown_text(key)} is of the type {kind}, and a token is made of floating-point "
            "numbers. Choose another file."
        )
    copy = tensor.detach().to(torch.float32, copy=True).contiguous()
    if not torch.isfinite(copy).all():
        raise BadFile(f"{name} holds numbers that are not finite: its training diverged. Choose an earlier checkpoint.")
    return copy


def check_token(token: PersonalizedToken, name: str) -> PersonalizedToken:
    """A token as it is, if it can work.

    Raises:
        BadFile: its kind, width or texts do not fit, or it gives a text encoder values that break images or do nothing.
    """
    if type(token.subject) is not CLASS_OF_KIND.get(token.kind, Embedding):
        raise BadFile(f"{name} is damaged: it calls itself {token.kind} and holds something else. Get it again.")
    if token.phrase.count("{}") != 1:
        raise BadFile(f"{name} is damaged: its phrase {shown(token.phrase)} has no place for the token. Get it again.")
    for text, what in ((token.placeholder, "placeholder"), (token.super_category, "super-category")):
        if not is_text(text):
            raise BadFile(
                f"{name} is damaged: its {what} {shown(text)} is not a text of at most {LONGEST_TEXT} characters. Get it again."
            )
    with reading(name, "a token"), torch.no_grad():
        for concept in (token.subject, *token.attractors):
            if concept.width != token.width:
                raise BadFile(f"{name} is damaged: it holds vectors of width {concept.width} and {token.width}. Get it again.")
            for values in _outputs(concept, 20 if concept is token.subject else 3):
                _check_values(name, values)
    return token


def _outputs(concept: Representation, times: int) -> Iterator[Tensor]:
    """What a text encoder gets: the vectors, or those of what varies at all layers and some times, and its bypass likewise."""
    if isinstance(concept, Embedding):
        yield concept.vectors.reshape(1, -1)
        return
    moments = torch.linspace(0, TIMESTEPS - 1, times).repeat_interleave(LAYERS)
    for part in moments.split(len(moments) if concept.count == 1 else LAYERS):  # several vectors may take much memory
        found = represent(concept, part, torch.arange(LAYERS).repeat(len(part) // LAYERS))
        yield found.vectors.flatten(1)
        if found.bypass is not None:
            yield found.bypass


def _check_values(name: str, rows: Tensor) -> None:
    """Each of the rows has an effect, and none overflows."""
    largest = rows.abs().amax(1)
    if not bool((largest <= LARGEST).all()):  # false for NaN
        raise BadFile(
            f"{name} gives values that are not finite or beyond {LARGEST:,.0f}, which no text encoder can take: images would "
            "be black. Its training diverged: choose an earlier checkpoint."
        )
    if not bool((largest > 1e-6).all()):  # half precision makes such numbers 0, and a bypass is divided by its norm
        raise BadFile(f"{name} holds only zeros: it would have no effect. Choose another file.")
