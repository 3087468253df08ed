"""Real photographs with masks, from scikit-image: five crops of a cat and their subject masks."""

import numpy as np
from PIL import Image, ImageDraw, ImageOps

# Outline of the cat's head in scikit-image's 451 x 300 photograph, drawn by hand.
_CAT = [
    (122, 60), (140, 22), (178, 62), (236, 72), (262, 34), (296, 96), (300, 150), (286, 206), (240, 246),
    (196, 252), (150, 234), (118, 188), (112, 120),
]  # fmt: skip
_CROPS = [(60, 0, 360, 300), (40, 0, 330, 290), (80, 10, 350, 280), (100, 0, 380, 280), (20, 0, 300, 280)]


def cat_photos(count: int = 5, size: int = 128) -> list[tuple[Image.Image, Image.Image]]:
    """`count` pairs of photo and mask (white on the subject), `size` pixels square."""
    from skimage import data

    photo = Image.fromarray(data.chelsea())
    mask = Image.new("L", photo.size)
    ImageDraw.Draw(mask).polygon(_CAT, fill=255)
    pairs = []
    for i in range(count):
        pair = [picture.crop(_CROPS[i % len(_CROPS)]).resize((size, size)) for picture in (photo, mask)]
        if i % 2:
            pair = [ImageOps.mirror(picture) for picture in pair]
        pairs.append(tuple(pair))
    return pairs


def cup_photo(size: int = 128) -> Image.Image:
    """One photo of a coffee cup: another photo set."""
    from skimage import data

    return Image.fromarray(np.ascontiguousarray(data.coffee()[:, 100:500])).resize((size, size))
