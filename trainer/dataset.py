"""The training photos as cached latents and masks, in buckets of one shape, and the random draws of a step."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TIMESTEPS = 1000  # t ~ U{0..999}


@dataclass(frozen=True, eq=False)
class Bucket:
    """Photos of one shape, each once per view (see `views.py`).

    numbers: which k of the run's photos these are.
    latents: (views, k, 4, h, w) float32, scaled as the U-Net takes them.
    masks: (views, k, 1, h, w) float32 in 0..1, 1 on the subject (M_s of Eq. 4; M_b = 1 - M_s), or on what counts.
    wordings: of each view, what its prompts become, `{}` is the prompt; empty: they stay as they are.
    """

    numbers: tuple[int, ...]
    latents: Tensor
    masks: Tensor
    wordings: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        height, width = self.latents.shape[-2:]
        return height, width


@dataclass(frozen=True, eq=False)
class Photos:
    """A run's photos, encoded once, in buckets of one shape each."""

    buckets: tuple[Bucket, ...]

    @classmethod
    def of(cls, latents: Tensor, masks: Tensor) -> "Photos":
        """Photos of one shape; latents (views, n, 4, h, w) and masks (views, n, 1, h, w)."""
        return cls((Bucket(tuple(range(latents.shape[1])), latents, masks),))

    @property
    def count(self) -> int:
        return sum(len(bucket.numbers) for bucket in self.buckets)

    @property
    def largest_size(self) -> tuple[int, int]:
        """Height and width of the latents that need most memory."""
        return max((bucket.size for bucket in self.buckets), key=math.prod)

    @property
    def usual_size(self) -> tuple[int, int]:
        """Height and width of the latents of most photos."""
        return max(self.buckets, key=lambda bucket: len(bucket.numbers)).size


def same_shapes(shapes: Iterable[tuple[int, ...]]) -> list[list[int]]:
    """Numbers of the shapes that are equal, in the order in which the shapes first come."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(number)
    return list(groups.values())


def latent_masks(masks: Tensor, size: tuple[int, int], resize: str = "area", dilation: int = 0) -> Tensor:
    """Subject masks of photos, brought to the latent grid.

    Args:
        masks: (n, H, W) in 0..1 at the photos' size.
        size: (h, w) of the latents.
        resize: `area` averages (soft masks), `nearest` picks the pixel in the middle.
        dilation: pixels by which the subject grows first.

    Returns:
        (n, 1, h, w) float32.
    """
    masks = masks[:, None].float()
    if dilation > 0:
        masks = F.max_pool2d(masks, 2 * dilation + 1, stride=1, padding=dilation)
    # Plain "nearest" takes each cell's top left pixel, which shifts the subject by half a cell.
    return F.interpolate(masks, size=size, mode="nearest-exact" if resize == "nearest" else resize)


def mask_problems(masks: list[Tensor]) -> list[str]:
    """Masks (H, W) that would leave a loss without pixels, each by the number of its image (from 1)."""
    found = []
    for i, mask in enumerate(masks):
        share, name = mask.float().mean().item(), f"image {i + 1}"
        if share < 1e-4:
            found.append(
                f"masks: the mask of {name} is empty, so there is no subject to learn from. Paint or "
                "detect the subject in it, or leave the image out."
            )
        elif share > 1 - 1e-4:
            found.append(
                f"masks: the mask of {name} covers the whole image, so there is no background for the "
                "attractor. Mask the subject only (MASK is 1 on the subject), or leave the image out."
            )
    return found


def step_generator(seed: int, step: int | str) -> torch.Generator:
    """The random numbers of one step, a function of seed and step alone: a resumed run draws the same ones."""
    digest = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True, eq=False)
class Batch:
    """B draws: photo index (B,), latents and noise (B, 4, h, w), masks (B, 1, h, w), timesteps (B,) int64; and what a prompt
    of each becomes, `{}` is the prompt."""

    photos: list[int]
    latents: Tensor
    masks: Tensor
    noise: Tensor
    timesteps: Tensor
    wordings: list[str]


def draw_batch(photos: Photos, batch_size: int, generator: torch.Generator) -> Batch:
    """B photos of one shape (every one before any twice), views, timesteps t ~ U{0..999} and noise ~ N(0, I).

    The first photo is drawn from all N and decides the bucket, of k photos; the rest is drawn from there. A bucket comes with
    probability k / N, and each of its photos B / k times then: B / N times a step for every photo, whatever its shape.
    """
    order = torch.randperm(photos.count, generator=generator)
    bucket = next(bucket for bucket in photos.buckets if int(order[0]) in bucket.numbers)
    rounds = -(-batch_size // len(bucket.numbers))
    order = torch.cat([order, *(torch.randperm(photos.count, generator=generator) for _ in range(rounds - 1))])
    # What a random order of all leaves of some is a random order of these.
    places = torch.tensor([bucket.numbers.index(photo) for photo in order.tolist() if photo in bucket.numbers][:batch_size])
    views = torch.randint(len(bucket.latents), (batch_size,), generator=generator)
    timesteps = torch.randint(TIMESTEPS, (batch_size,), generator=generator)
    return _gather(bucket, places, views, timesteps, generator)


def fixed_batch(photos: Photos, batch_size: int, seed: int) -> list[Batch]:
    """What never changes in a run, a batch for each shape: photos in turn, unflipped, timesteps spread evenly (after DVAR)."""
    generator = step_generator(seed, "fixed")
    order = [n % photos.count for n in range(batch_size)]
    spread = ((torch.arange(batch_size) + 0.5) / batch_size * TIMESTEPS).long()
    batches = []
    for bucket in photos.buckets:
        own = [n for n, photo in enumerate(order) if photo in bucket.numbers]
        if own:
            places = torch.tensor([bucket.numbers.index(order[n]) for n in own])
            batches.append(_gather(bucket, places, torch.zeros_like(places), spread[own], generator))
    return batches


def _gather(bucket: Bucket, places: Tensor, views: Tensor, timesteps: Tensor, generator: torch.Generator) -> Batch:
    latents = bucket.latents[views, places]
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    photos = [bucket.numbers[place] for place in places.tolist()]
    wordings = [bucket.wordings[view] for view in views.tolist()] if bucket.wordings else ["{}"] * len(photos)
    return Batch(photos, latents, bucket.masks[views, places], noise, timesteps, wordings)
