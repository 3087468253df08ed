"""CLIP and DINO for the scores, by transformers."""

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..host.managed import Managed
from ..pretrained.model_files import Family, native_classes, read_weights, reading
from .preprocessing import CLIP_NORM, IMAGENET_NORM, Preprocessing

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.modeling_outputs import BaseModelOutputWithPooling

CLIP = Family(
    "CLIP",
    ("evaluation", "clip_vision"),
    ("clip",),
    ("openai/clip-vit-base-patch32", "openai/clip-vit-base-patch16", "openai/clip-vit-large-patch14"),
    field="clip",
)
DINO = Family(
    "DINO",
    ("evaluation", "clip_vision"),
    ("vit", "dinov2", "dinov2_with_registers"),
    ("facebook/dino-vits16", "facebook/dino-vitb16", "facebook/dinov2-small", "facebook/dinov2-base"),
    field="dino",
)
_DINO_CLASSES = {"vit": "ViTModel", "dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}


class _Encoder:
    """A backbone in float32, where it came from, and its own preprocessing."""

    def __init__(self, model: "PreTrainedModel", path: Path, preprocessing: Preprocessing):
        self._managed, self._name, self._preprocessing = Managed(model.float()), path.name, preprocessing
        self._weights = weights_hash(path)

    def describe(self) -> dict[str, str]:
        """What the scores of this encoder depend on, in words; the same for the same encoder on every machine."""
        return {"backbone": self._name, "weights": self._weights, **self._preprocessing.describe(), "dtype": "float32"}

    def image(self, images: Tensor) -> Tensor:
        """Features (n, d) of images (n, H, W, 3) in 0..1 of any size: float32, L2-normalised, on the CPU."""
        if not len(images):
            raise ValueError("no images to encode")
        model = self._managed.loaded()
        # One at a time: a result must not depend, even by rounding, on what else is in its batch, so that shards and resumed
        # runs give exactly the numbers of a single run.
        with torch.inference_mode(), _exact():
            rows = [self._features(model, self._preprocessing(image)[None].to(self._managed.device)) for image in images]
        return F.normalize(torch.cat(rows).float().cpu(), dim=-1)

    def _features(self, model: "PreTrainedModel", pixels: Tensor) -> Tensor:
        raise NotImplementedError


class ClipEncoder(_Encoder):
    """CLIP's projected image and text features."""

    def __init__(self, model: "CLIPModel", tokenizer: "PreTrainedTokenizerBase", path: Path):
        side = model.config.vision_config.image_size
        super().__init__(model, path, Preprocessing(side, side, CLIP_NORM))
        self._tokenizer, self._length = tokenizer, model.config.text_config.max_position_embeddings
        self._known: dict[str, Tensor] = {}

    def describe(self) -> dict[str, str]:
        return {**super().describe(), "text": f"the first {self._length} tokens of a prompt"}

    def text(self, texts: list[str]) -> Tensor:
        """Features (n, d) of texts: float32, L2-normalised, on the CPU. Words beyond the model's length are cut off.

        A text is encoded once and remembered: every image of a caption asks for it again.
        """
        if not texts:
            raise ValueError("no texts to encode")
        for text in dict.fromkeys(texts):
            if text not in self._known:
                self._known[text] = self._encode(text)
        return torch.cat([self._known[text] for text in texts])

    def _encode(self, text: str) -> Tensor:
        model = self._managed.loaded()
        tokens = self._tokenizer([text], truncation=True, max_length=self._length, return_tensors="pt")
        with torch.inference_mode(), _exact():
            ids, mask = (tokens[key].to(self._managed.device) for key in ("input_ids", "attention_mask"))
            features = _projected(model.get_text_features(input_ids=ids, attention_mask=mask))
        return F.normalize(features.float().cpu(), dim=-1)

    def _features(self, model: "PreTrainedModel", pixels: Tensor) -> Tensor:
        return _projected(model.get_image_features(pixel_values=pixels))


class DinoEncoder(_Encoder):
    """The CLS token of DINO's last hidden state, after the final LayerNorm (the pooler on top of it was never trained)."""

    def __init__(self, model: "PreTrainedModel", path: Path):
        side = model.config.image_size
        crop = side if model.config.model_type == "vit" else min(side, 224)  # 518 is only what DINOv2's training ended with
        super().__init__(model, path, Preprocessing(round(crop * 256 / 224), crop, IMAGENET_NORM))

    def describe(self) -> dict[str, str]:
        return {**super().describe(), "feature": "CLS of the last hidden state, after the final LayerNorm"}

    def _features(self, model: "PreTrainedModel", pixels: Tensor) -> Tensor:
        return model(pixel_values=pixels).last_hidden_state[:, 0]


@dataclass(frozen=True)
class EvaluationEncoders:
    """The backbones for the scores. Either may be None; its scores are then left out."""

    clip: ClipEncoder | None = None
    dino: DinoEncoder | None = None

    def describe(self) -> dict[str, dict[str, str]]:
        """What the scores depend on, by `clip` and `dino`, for those that are loaded."""
        found = {"clip": self.clip, "dino": self.dino}
        return {name: encoder.describe() for name, encoder in found.items() if encoder is not None}

    def clip_text(self, texts: list[str]) -> Tensor:
        """(n, d) of texts, L2-normalised float32.

        Raises:
            ValueError: CLIP is not loaded.
        """
        if self.clip is None:
            raise ValueError("CLIP is not loaded")
        return self.clip.text(texts)


def _projected(output: "Tensor | BaseModelOutputWithPooling") -> Tensor:
    """CLIP's features: a tensor up to transformers 4, the pooled part of an output object from 5 on."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _exact() -> AbstractContextManager[None]:
    """Strict float32: without it cuDNN's convolutions, such as the patch embedding, round to TF32."""
    own = torch.backends.cudnn  # everything else stays as ComfyUI has set it
    return own.flags(
        enabled=own.enabled,
        benchmark=own.benchmark,
        benchmark_limit=own.benchmark_limit,
        deterministic=own.deterministic,
        allow_tf32=False,
    )


def _weight_files(path: Path) -> list[Path]:
    """The weight files of a folder: safetensors, or else the older format."""
    return sorted(path.glob("model*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))


def weights_hash(path: Path) -> str:
    """Identity of a folder's weights. For a single file it is the sha256 that the Hugging Face hub shows."""
    hashes = [_sha256(file) for file in _weight_files(path)]
    return f"sha256:{hashes[0] if len(hashes) == 1 else hashlib.sha256(''.join(hashes).encode()).hexdigest()}"


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def load_clip(path: Path) -> ClipEncoder:
    """CLIP from a folder in transformers' format, in float32.

    Raises:
        UserError: what is wrong with the files.
    """
    model_class, tokenizer_class = native_classes(CLIP, "CLIPModel", "AutoTokenizer")
    with reading(CLIP, path):
        model = _read(model_class, path)
        tokenizer = tokenizer_class.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        words = tokenizer.get_vocab()
        if (
            "a</w>" not in words or max(words.values()) >= model.config.text_config.vocab_size
        ):  # Without its files transformers makes an empty one.
            raise ValueError("its tokenizer is missing or belongs to another model")
        return ClipEncoder(model, tokenizer, path)


def load_dino(path: Path) -> DinoEncoder:
    """DINO or DINOv2 from a folder in transformers' format, in float32.

    Raises:
        UserError: what is wrong with the files.
    """
    import transformers

    with reading(DINO, path):
        kind = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False).model_type
        (model_class,) = native_classes(DINO, _DINO_CLASSES[kind])
        settings = {"add_pooling_layer": False} if kind == "vit" else {}
        return DinoEncoder(_read(model_class, path, **settings), path)


def _read(model_class: "type[PreTrainedModel]", path: Path, **settings: Any) -> "PreTrainedModel":
    safe = any(file.suffix == ".safetensors" for file in _weight_files(path))
    return read_weights(model_class, path, safetensors=safe, **settings)
