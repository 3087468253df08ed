"""SAM2: masks from boxes, by the `sam2` package (official .pt files) or by transformers (converted folders)."""

import pickle
from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..errors import UserError
from ..host.managed import DTYPES, Managed, resolve_dtype
from ..types import Sam2Type
from .boxes import Box
from .models import SAM2, choices, find

# Official configurations by the width of the trunk and its number of blocks.
_SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}


class Sam2:
    """A loaded SAM2."""

    def masks(self, image: Tensor, boxes: list[Box], threshold: float = 0.0) -> tuple[Tensor, Tensor]:
        """One mask for each box; of the three that SAM2 offers, the one with the highest predicted IoU.

        Args:
            image: (H, W, 3) in 0..1. boxes: N, in pixels. threshold: of the mask's logits.

        Returns:
            masks (N, H, W) float32, 0 or 1; predicted IoU (N,), of the masks that were taken.
        """
        pixels = (image.clamp(0, 1) * 255).round().byte().cpu().numpy()
        corners = np.array([(b.x, b.y, b.x + b.width, b.y + b.height) for b in boxes], dtype=np.float32)
        with torch.inference_mode():
            masks, scores = self._candidates(pixels, corners, threshold)
        best = scores.argmax(1)
        rows = torch.arange(len(boxes))
        return masks[rows, best].float(), scores[rows, best].float()

    def _candidates(self, pixels: np.ndarray, corners: np.ndarray, threshold: float) -> tuple[Tensor, Tensor]:
        """(H, W, 3) uint8, (N, 4) -> masks (N, 3, H, W) bool and predicted IoU (N, 3), on the CPU."""
        raise NotImplementedError


class PackageSam2(Sam2):
    """By the `sam2` package's own image predictor, which keeps weights in float32 and computes in `dtype`."""

    def __init__(self, model, dtype: torch.dtype):
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        self._managed, self._dtype = Managed(model), dtype
        self._predictor = SAM2ImagePredictor(model)

    def _candidates(self, pixels, corners, threshold):
        self._managed.loaded()
        predictor = self._predictor
        predictor.mask_threshold = threshold
        try:
            with torch.autocast(self._managed.device.type, self._dtype, enabled=self._dtype != torch.float32):
                predictor.set_image(pixels)
                found = [predictor.predict(box=box, multimask_output=True)[:2] for box in corners]
        finally:
            predictor.reset_predictor()  # its features of the picture would stay on the GPU
        masks, scores = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
        return masks > 0, scores


class TransformersSam2(Sam2):
    """By transformers' native classes."""

    def __init__(self, model, processor):
        self._managed, self._processor = Managed(model), processor

    def _candidates(self, pixels, corners, threshold):
        model, managed = self._managed.loaded(), self._managed
        inputs = self._processor(images=pixels, input_boxes=[corners.tolist()], return_tensors="pt")
        sizes = inputs["original_sizes"]
        inputs = {k: v.to(managed.device, managed.dtype) if v.is_floating_point() else v.to(managed.device)
                  for k, v in inputs.items()}
        out = model(**inputs, multimask_output=True)
        masks = self._processor.post_process_masks(out.pred_masks.float().cpu(), sizes, mask_threshold=threshold)[0]
        return masks > 0, out.iou_scores[0].float().cpu()


def load_sam2(path: Path, dtype: torch.dtype) -> Sam2:
    """A converted folder, or an official .pt file with, for other architectures, its configuration beside it.

    Raises:
        UserError: what is wrong with the files, or what is missing to read them.
    """
    try:
        return _load_folder(path, dtype) if path.is_dir() else _load_official(path, dtype)
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError, EOFError) as error:
        raise UserError(f"model: {path.name} is damaged or no SAM2 model ({error}). Download it again.") from error


def _load_folder(path: Path, dtype: torch.dtype) -> Sam2:
    try:
        from transformers import Sam2Model, Sam2Processor
    except ImportError as error:
        raise UserError("model: this transformers is too old for SAM2. Update it (pip install -U transformers), or use an "
                        "official .pt file with the sam2 package.") from error
    from safetensors import SafetensorError

    try:
        model = Sam2Model.from_pretrained(path, local_files_only=True)
    except SafetensorError as error:
        raise ValueError(error) from error
    return TransformersSam2(model.to(dtype), Sam2Processor.from_pretrained(path, local_files_only=True))


def _load_official(path: Path, dtype: torch.dtype) -> Sam2:
    try:
        from sam2.build_sam import build_sam2
    except ImportError as error:
        raise UserError(
            f"model: {path.name} is an official checkpoint, which needs the sam2 package. Install it with "
            "SAM2_BUILD_CUDA=0 pip install --no-build-isolation sam2, or choose a converted model such as "
            f"{SAM2.repositories[0]}, which needs nothing."
        ) from error
    state = torch.load(path, map_location="cpu", weights_only=True)["model"]
    beside = path.with_suffix(".yaml")
    model = _built_from(beside) if beside.is_file() else build_sam2(_official_config(path, state), device="cpu")
    model.load_state_dict(state)
    return PackageSam2(model, dtype)


def _official_config(path: Path, state: dict[str, Tensor]) -> str:
    """The package's configuration of a checkpoint, told by its weights: file names get changed."""
    width = len(state["image_encoder.trunk.patch_embed.proj.weight"])
    blocks = 1 + max(int(key.split(".")[3]) for key in state if key.startswith("image_encoder.trunk.blocks."))
    size = _SIZES.get((width, blocks))
    if size is None:
        raise UserError(f"model: {path.name} has a size of its own (width {width}, {blocks} blocks). Put the configuration it "
                        f"was trained with beside it, as {path.stem}.yaml.")
    version = "sam2.1" if "no_obj_embed_spatial" in state else "sam2"
    return f"configs/{version}/{version}_hiera_{size}.yaml"


def _built_from(config: Path):
    """A model as a SAM2 configuration file describes it; of the sam2 package's own classes only."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(OmegaConf.load(config), resolve=True)
    foreign = [target for target in _targets(content) if not str(target).startswith("sam2.modeling.")]
    if foreign:
        raise UserError(f"model: {config.name} asks for {foreign[0]}, which is no part of SAM2. Nothing of it was run.")
    return instantiate(content["model"], _recursive_=True).eval()


def _targets(content) -> list:
    if isinstance(content, dict):
        own = [content["_target_"]] if "_target_" in content else []
        return own + [t for value in content.values() for t in _targets(value)]
    return [t for value in content for t in _targets(value)] if isinstance(content, list) else []


class LoadSAM2(io.ComfyNode):
    """A SAM2 model, from disk or the hub."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorLoadSAM2",
            display_name="Load SAM2",
            category="attractor",
            description="Loads SAM2, which turns boxes into masks.",
            search_aliases=["segment anything", "sam"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input("model", options=choices(SAM2),
                               tooltip="From models/sam2: official .pt files (which need the sam2 package) or converted "
                                       "folders. Names that begin with facebook/ can be downloaded, the smallest is fine."),
                io.Boolean.Input("download_if_missing", default=False,
                                 tooltip="Fetch a facebook/ model from the Hugging Face hub into models/sam2. A broken "
                                         "download goes on when queued again."),
                io.Combo.Input("dtype", options=list(DTYPES), default="auto", optional=True, advanced=True,
                               tooltip="Precision of the weights. auto: half where the GPU is fast at it."),
            ],
            outputs=[Sam2Type.Output("sam2", tooltip="Wire to Subject Mask or Mask From Boxes.")],
        )

    @classmethod
    def execute(cls, model: str, download_if_missing: bool, dtype: str = "auto") -> io.NodeOutput:
        path = find(SAM2, model, download_if_missing, cls.hidden.unique_id)
        with torch.inference_mode(False):
            return io.NodeOutput(load_sam2(path, resolve_dtype(dtype)))
