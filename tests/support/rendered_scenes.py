"""Pictures whose subjects are known to the pixel: blobs of colour before a soft background, each with equals beside it."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Scene:
    """picture: (H, W, 3) in 0..1, of whole 8-bit values. masks: (N, H, W) bool, apart from each other."""

    picture: Tensor
    masks: Tensor

    def corners(self, i: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of subject `i`; right and bottom exclusive."""
        rows, columns = self.masks[i].any(1).nonzero(), self.masks[i].any(0).nonzero()
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    def pixels(self) -> np.ndarray:
        return (self.picture * 255).round().byte().numpy()


def render(height: int, width: int, seed: int, rows: int = 1, columns: int = 2) -> Scene:
    """A subject in each cell of a grid, all of the same outline, colours and size: only a box tells them apart."""
    random = np.random.default_rng((seed, height, width, rows, columns))
    y, x = (torch.arange(size) + 0.5 for size in (height, width))
    cell = np.array([width / columns, height / rows])
    radii = cell / 2 * random.uniform(0.55, 0.8, 2)
    most = {2: 0.15, 3: 0.2, 5: 0.1}  # of a wave with so many crests around the outline
    waves = [(crests, random.uniform(0, high), random.uniform(0, 2 * math.pi)) for crests, high in most.items()]
    room = cell / 2 - radii
    masks = []
    for row in range(rows):
        for column in range(columns):
            centre = cell * (np.array([column, row]) + 0.5) + room * random.uniform(-0.9, 0.9, 2)
            u, v = (x - centre[0]) / radii[0], ((y - centre[1]) / radii[1])[:, None]
            angle = torch.atan2(v, u)
            outline = 1 + sum(share * torch.cos(crests * angle + phase) for crests, share, phase in waves)
            masks.append(torch.sqrt(u**2 + v**2) * (1 + sum(share for _, share, _ in waves)) < outline)
    masks = torch.stack(masks)
    behind = _cloudy(random, random.uniform((0.1, 0.2, 0.3), (0.35, 0.8, 0.9)), height, width)
    before = _cloudy(random, random.uniform((0.65, 0.1, 0.1), (0.9, 0.6, 0.4)), height, width)
    picture = torch.where(masks.any(0)[..., None], before, behind)
    return Scene((picture.clamp(0, 1) * 255).round() / 255, masks)


def _cloudy(random, colour, height: int, width: int) -> Tensor:
    """(H, W, 3) around a colour."""
    coarse = torch.from_numpy(random.uniform(-0.1, 0.1, (1, 3, 5, 5)) + colour[None, :, None, None]).float()
    return F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)[0].movedim(0, -1)
