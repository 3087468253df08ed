"""Teach the small SAM2 of small_vision.py what a box means, and write it in the formats that users' files have.

    python tests/taught_sam2.py <models folder>

sam2/taught.pt            the sam2 package's format
sam2/taught.safetensors   the same weights as one safetensors file
sam2/taught.yaml          the configuration of both
sam2/taught               transformers' converted format, the same weights

It has learnt to segment what rendered_scenes.py draws, and nothing else: the subject that fills a box, not its equals
beside it. Of the three masks that it offers for a box, one is right where the subject lies left of the middle, one where it
lies right, and one never: only the predicted IoU tells which. Seeded; a minute and a half on one core.
"""

import hashlib
import sys
from importlib.metadata import version
from pathlib import Path

import rendered_scenes
import small_vision
from model_cache import cached_models

SIDE = small_vision.SIDE  # pixels a side inside the model
GRIDS = [(1, 2), (2, 1), (2, 2), (1, 2), (2, 1), (1, 1)]  # subjects in a scene, rows and columns
PICTURES, BOXES = 4, 4  # in a batch, and of each picture
STRIDE = 4  # pixels inside the model for each pixel of a mask

CONFIG = small_vision.SAM2_YAML.replace("image_size: 1024", f"image_size: {SIDE}")


def teach(seed: int = 0):
    """The sam2 package's model, taught: boxes first, then small pictures, then pictures of its own size."""
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    torch.manual_seed(seed)
    torch.set_num_threads(1)  # more hardly help, and harm where others work too
    model = instantiate(OmegaConf.create(CONFIG).model, _recursive_=True)
    _stage(model, SIDE // 2, 300, 3e-3, _box_loss)
    _stage(model, SIDE // 2, 420, 2e-3, lambda model, side, step: _picture_loss(model, side, seed + step))
    _stage(model, SIDE, 130, 1e-3, lambda model, side, step: _picture_loss(model, side, seed + 10_000 + step))
    return model.eval()


def _stage(model, side: int, steps: int, rate: float, loss_of) -> None:
    import torch

    prompts = model.sam_prompt_encoder
    prompts.input_image_size, prompts.image_embedding_size = (side, side), (side // 16, side // 16)
    image_parts = ("image_encoder", "sam_prompt_encoder", "sam_mask_decoder", "no_mem_embed")  # the rest is for videos
    weights = [weight for name, weight in model.named_parameters() if name.startswith(image_parts)]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        loss = loss_of(model, side, step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 19:
            print(f"{side} pixels, step {step + 1} of {steps}: loss {loss:.3f}", flush=True)


def _decode(model, features, corners):
    """Logits of three masks (N, 3, side / 4, side / 4) and their predicted IoU (N, 3) for corners (N, 2, 2) of boxes."""
    import torch

    labels = torch.tensor([[2, 3]] * len(corners))  # left top, right bottom
    sparse, dense = model.sam_prompt_encoder(points=(corners, labels), boxes=None, masks=None)
    return model.sam_mask_decoder(
        image_embeddings=features[2] + model.no_mem_embed.view(1, -1, 1, 1),
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
        repeat_image=False,
        high_res_features=features[:2],
    )[:2]


def _box_loss(model, side: int, step: int, count: int = 32):
    """Without a picture the mask of a box is all that is in it."""
    import torch
    import torch.nn.functional as F

    centre, half = torch.rand(count, 2), torch.rand(count, 2) * 0.4 + 0.05
    corners = torch.stack([centre - half, centre + half], 1).clamp(0, 1) * side  # (count, 2, 2)
    features = [torch.zeros(count, channels, side // stride, side // stride) for channels, stride in ((4, 4), (8, 8), (32, 16))]
    logits, _ = _decode(model, features, corners)
    inside = _inside(corners, side // STRIDE, STRIDE)[:, None]
    return F.binary_cross_entropy_with_logits(logits, inside.expand_as(logits))


def _inside(corners, side: int, pixel: int = 1):
    """(N, side, side) with 1 inside the boxes."""
    import torch

    at = (torch.arange(side) + 0.5) * pixel
    (left, top), (right, bottom) = (corners[:, i, :, None].unbind(1) for i in (0, 1))
    return (((at > top) & (at < bottom))[:, :, None] & ((at > left) & (at < right))[:, None]).float()


def _picture_loss(model, side: int, step: int):
    import torch
    import torch.nn.functional as F

    pictures, masks, corners = _batch(side, step)
    features = [f.repeat_interleave(BOXES, 0) for f in model.forward_image(pictures)["backbone_fpn"]]
    logits, predicted = _decode(model, features, corners)
    wanted = F.avg_pool2d(_offers(masks, corners, side), STRIDE)  # how much of a mask's pixel is covered
    masked = logits.sigmoid()
    overlap = (2 * (masked * wanted).sum((2, 3)) + 1) / ((masked + wanted).sum((2, 3)) + 1)
    with torch.no_grad():
        got, truth = logits > 0, F.avg_pool2d(masks[:, None], STRIDE) > 0.5
        iou = (got & truth).sum((2, 3)) / (got | truth).sum((2, 3)).clamp(min=1)
    return 5 * F.binary_cross_entropy_with_logits(logits, wanted) + (1 - overlap.mean()) + (predicted - iou).square().mean()


def _batch(side: int, step: int):
    """Pictures (P, 3, side, side) as the model takes them; masks (P * BOXES, side, side) and corners of subjects in them."""
    import numpy as np
    import torch

    pictures, masks, corners = [], [], []
    for i in range(step * PICTURES, (step + 1) * PICTURES):
        scene = rendered_scenes.render(side, side, i, *GRIDS[i % len(GRIDS)])
        pictures.append(scene.picture.movedim(-1, 0))
        for subject in np.random.default_rng(i).integers(len(scene.masks), size=BOXES).tolist():
            masks.append(scene.masks[subject])
            corners.append(scene.corners(subject))
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    corners = torch.tensor(corners, dtype=torch.float32).view(-1, 2, 2)
    return (torch.stack(pictures) - mean) / deviation, torch.stack(masks).float(), corners


def _offers(masks, corners, side: int):
    """What each of the three masks shall be: the subject; or else what is around it in its box, or the box."""
    import torch

    inside = _inside(corners, side)
    middle = corners[:, :, 0].mean(1)[:, None, None] / side
    left, right = (torch.where(at, masks, inside - masks) for at in (middle < 0.55, middle > 0.45))
    return torch.stack([left, right, inside], 1)


def write_all(models_folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder = models_folder / "sam2"
    folder.mkdir(parents=True)
    weights = teach().state_dict()
    torch.save({"model": weights}, folder / "taught.pt")
    save_file(weights, folder / "taught.safetensors")
    (folder / "taught.yaml").write_text(CONFIG)
    small_vision.write_sam2_transformers(folder / "taught", checkpoint=folder / "taught.pt")


def cached_taught_sam2(cache: Path) -> Path:
    """A models folder with all of them inside the folder `cache`; taught first, by a process of its own, if not there."""
    sources = b"".join(Path(path).read_bytes() for path in (rendered_scenes.__file__, small_vision.__file__, __file__))
    key = hashlib.sha256(sources + version("transformers").encode()).hexdigest()[:12]
    return cached_models(cache, "taught-sam2", key, __file__)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
