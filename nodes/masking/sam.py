"""SAM2: masks from boxes, by the `sam2` package (official files) or by transformers (converted folders)."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..host.managed import Managed
from ..pictures import to_picture
from ..pretrained.model_files import SAM2, native_classes, read_weights, reading
from .boxes import Box
from .sam_checkpoint import read_checkpoint

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base
    from transformers import Sam2Model, Sam2Processor

# Folders saved by transformers 4 hold only one of these two. Transformers 4 copies it to the other; 5 would leave that random.
_TWINS = {"prompt_encoder.shared_embedding.positional_embedding": "shared_image_embedding.positional_embedding"}


class Sam2(ABC):
    """A loaded SAM2. Weights stay in float32, which positions in the image need; layers compute in `dtype`."""

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype):
        self._managed, self._dtype = Managed(model), dtype

    def masks(self, image: Tensor, boxes: list[Box], threshold: float = 0.0) -> tuple[Tensor, Tensor]:
        """One mask for each box; of the three that SAM2 offers, the one with the highest predicted IoU.

        Args:
            image: (H, W, 3) in 0..1. boxes: N, in pixels. threshold: of the mask's logits.

        Returns:
            masks (N, H, W) float32, 0 or 1; predicted IoU (N,), of the masks that were taken; both on the CPU.
        """
        height, width = image.shape[:2]
        if not boxes:
            return torch.zeros(0, height, width), torch.zeros(0)
        picture = to_picture(image[None])
        corners = np.array([(b.x, b.y, b.x + b.width, b.y + b.height) for b in boxes], dtype=np.float32)
        model, device = self._managed.loaded(), self._managed.device
        half = torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32)
        with torch.inference_mode(), half:
            masks, scores = self._best(model, picture, corners, threshold)
        return masks.float(), scores.float()

    @abstractmethod
    def _best(self, model: Any, picture: Image.Image, corners: np.ndarray, threshold: float) -> tuple[Tensor, Tensor]:
        """corners: (N, 4), left, top, right, bottom. Gives (N, H, W) bool and (N,), on the CPU."""


class PackageSam2(Sam2):
    """By the `sam2` package's own image predictor."""

    def _best(self, model: "SAM2Base", picture: Image.Image, corners: np.ndarray, threshold: float) -> tuple[Tensor, Tensor]:
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        predictor = SAM2ImagePredictor(model, mask_threshold=threshold)  # holds the picture's features: not kept
        predictor._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]  # its own are for 1024 px only
        predictor.set_image(picture)
        masks, scores = [], []
        for box in corners:  # one at a time: three masks of a large photo are hundreds of megabytes
            offered, predicted_iou, _ = predictor.predict(box=box, multimask_output=True)
            best = predicted_iou.argmax()
            masks.append(torch.from_numpy(offered[best] > 0))
            scores.append(float(predicted_iou[best]))
        return torch.stack(masks), torch.tensor(scores)


class TransformersSam2(Sam2):
    """By transformers' native classes."""

    def __init__(self, model: "Sam2Model", processor: "Sam2Processor", dtype: torch.dtype):
        super().__init__(model, dtype)
        self._processor = processor

    def _best(self, model: "Sam2Model", picture: Image.Image, corners: np.ndarray, threshold: float) -> tuple[Tensor, Tensor]:
        # A box as its two corners, as SAM2 itself takes it: transformers 4.56 leaves out a token with `input_boxes`.
        points, labels = corners.reshape(-1, 2, 2).tolist(), [[2, 3]] * len(corners)
        inputs = self._processor(images=picture, input_points=[points], input_labels=[labels], return_tensors="pt")
        sizes = inputs["original_sizes"]
        out = model(**inputs.to(self._managed.device), multimask_output=True)
        scores, best = out.iou_scores[0].max(-1)  # (N,)
        low = out.pred_masks[0][torch.arange(len(best)), best]  # (N, 256, 256)
        masks = self._processor.post_process_masks(low[None, :, None].float().cpu(), sizes, mask_threshold=threshold)[0]
        return masks[:, 0], scores.cpu()


def load_sam2(path: Path, dtype: torch.dtype) -> Sam2:
    """A converted folder, or an official file; a file of another architecture needs its configuration beside it.

    Raises:
        UserError: what is wrong with the files, or what is missing to read them.
    """
    if path.is_file():
        with reading(SAM2, path):
            return PackageSam2(read_checkpoint(path), dtype)
    model_class, processor_class = native_classes(SAM2, "Sam2Model", "Sam2Processor")
    with reading(SAM2, path):
        model = read_weights(model_class, path, _TWINS).float()
        processor = processor_class.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    return TransformersSam2(model, processor, dtype)
