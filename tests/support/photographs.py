"""Real photographs with masks, from scikit-image: five crops of a cat and their subject masks."""

from PIL import Image, ImageDraw, ImageOps

# Outline of the cat's head in scikit-image's 451 x 300 photograph, drawn by hand.
_CAT = [
    (35, 0),
    (392, 0),
    (368, 60),
    (352, 130),
    (335, 200),
    (300, 260),
    (262, 286),
    (190, 300),
    (0, 300),
    (46, 215),
    (36, 120),
    (30, 50),
]
_CROPS = [(75, 0, 375, 300), (0, 0, 300, 300), (150, 0, 450, 300), (110, 0, 410, 300), (40, 0, 340, 300)]


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
