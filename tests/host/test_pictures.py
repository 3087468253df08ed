"""Photos as the training sees them, and the loss chart."""

import numpy as np
import pytest
import torch
from PIL import ImageColor

from attractor.nodes.errors import UserError
from attractor.nodes.pictures import as_images, as_masks, beside, to_picture, to_tensor
from attractor.nodes.plotting import SERIES
from attractor.nodes.training.charts import draw_chart
from attractor.nodes.training.photos import lost_share, photo_problems, photo_sizes, resize_photos

BLUE, RED = (ImageColor.getrgb(SERIES[i]) for i in (0, 4))  # of the fixed-batch loss and of the contrast


def disc(height, width, radius, centre):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2).float()


@pytest.mark.parametrize("shape, expected", [((600, 600), (512, 512)), ((3000, 4000), (448, 576)), ((900, 600), (640, 448))])
def test_the_training_size_keeps_the_shape(shape, expected):
    for aspect in ("buckets", "crop"):
        assert photo_sizes([torch.zeros(*shape, 3)] * 2, 512, aspect) == [expected] * 2


def test_photos_of_differing_shapes_keep_them_in_few_buckets():
    """Phones, cameras and squares, upright and sideways: six shapes of photos, five of training, no tenth of any photo lost."""
    shapes = [(3024, 4032), (4032, 3024), (2000, 3000), (1000, 1000), (1080, 1920), (1920, 1080), (3000, 4100)]
    images = [torch.zeros(1, 1, 3).expand(*shape, 3) for shape in shapes]
    sizes = photo_sizes(images, 512, "buckets")
    assert len(set(sizes)) == 5
    assert all(lost_share(image, size) <= 0.1 for image, size in zip(images, sizes, strict=True))
    assert all(side % 64 == 0 for size in sizes for side in size)
    assert all(0.85 < height * width / 512**2 < 1.15 for height, width in sizes)
    assert len(set(photo_sizes(images, 512, "crop"))) == 1


def test_what_is_wider_than_2_to_1_is_cut():
    panorama = torch.zeros(1, 1, 3).expand(1000, 3000, 3)
    ((height, width),) = photo_sizes([panorama], 512, "buckets")
    assert (height, width) == (384, 704) and lost_share(panorama, (height, width)) > 0.3
    assert photo_sizes([panorama], 512, "crop") == [(320, 896)]


def test_nothing_is_stretched_and_masks_stay_on_their_photos():
    shapes = ((300, 400), (200, 200), (500, 260))
    masks = [disc(h, w, min(h, w) / 4, (h / 2, w / 2)) for h, w in shapes]
    images = [mask[..., None].expand(-1, -1, 4) for mask in masks]  # with an alpha channel, which is dropped
    sizes = [(128, 128), (192, 256), (256, 128)]
    photos, small = resize_photos(images, masks, sizes)
    assert [tuple(photo.shape) for photo in photos] == [(*size, 3) for size in sizes]
    assert [tuple(mask.shape) for mask in small] == sizes
    for photo, mask in zip(photos, small, strict=True):
        assert (photo[..., 0] - mask).abs().mean() < 0.02
        height, width = (mask > 0.5).any(1).sum().item(), (mask > 0.5).any(0).sum().item()
        assert abs(height - width) <= 1, "a disc is no ellipse"


def test_lists_and_batches_are_the_same_photos():
    with torch.inference_mode():
        batches = [torch.rand(2, 8, 8, 3), torch.rand(1, 6, 9, 3)]
    photos = as_images(batches)
    assert [tuple(photo.shape) for photo in photos] == [(8, 8, 3), (8, 8, 3), (6, 9, 3)]
    assert photos[0].data_ptr() == batches[0].data_ptr(), "originals are large, and are not held twice"
    resized, _ = resize_photos(photos, None, [(64, 64)] * 3)
    assert not any(photo.is_inference() for photo in resized), "what is trained on"
    assert as_masks(None) is None


def test_grey_images_and_masks_with_a_channel_are_taken_as_what_they_are():
    assert [tuple(image.shape) for image in as_images([torch.rand(2, 6, 9, 1)])] == [(6, 9, 3)] * 2
    for shape in ((6, 9), (1, 6, 9), (1, 6, 9, 1), (1, 1, 6, 9)):
        assert [tuple(mask.shape) for mask in as_masks([torch.rand(shape)])] == [(6, 9)]


@pytest.mark.parametrize(
    "batches, words",
    [
        ([torch.rand(1, 6, 9, 3), torch.rand(6, 9, 3)], r"images: batch 2 has the shape \(6, 9, 3\)"),
        ([torch.rand(1, 6, 9, 2)], r"images: batch 1 has the shape"),
        ([torch.rand(1, 0, 9, 3)], r"images: batch 1 has the shape"),
        ([torch.rand(0, 6, 9, 3)], r"images: there are none"),
    ],
)
def test_what_is_not_an_image_is_named(batches, words):
    with pytest.raises(UserError, match=words):
        as_images(batches)


def test_what_is_not_a_mask_is_named():
    with pytest.raises(UserError, match=r"masks: batch 1 has the shape \(1, 6, 9, 3\).*Convert Image to Mask"):
        as_masks([torch.rand(1, 6, 9, 3)])


def test_an_unpainted_mask_is_called_empty_whatever_its_size():
    images = [torch.rand(128, 128, 3)] * 2
    (problem,) = photo_problems(images, [torch.full((128, 128), 0.5), torch.zeros(64, 64)], needs_masks=True)
    assert "image 2 is empty" in problem
    assert photo_problems(images, None, needs_masks=False) == []


def test_the_chart_has_a_strip_of_its_own_for_the_contrast():
    curves = {"fixed": [3.0, float("nan"), 2.0, 1.0], "subject": [2.0] * 4, "contrast": [0.1, 0.2, 0.1, 0.0]}
    image = draw_chart(curves, 4, "title")
    pixels = np.asarray(image)
    rows = {colour: np.nonzero((pixels[40:] == colour).all(-1))[0] for colour in (BLUE, RED)}
    assert len(rows[BLUE]) and len(rows[RED]) and rows[BLUE].max() < rows[RED].min()
    falling = [np.nonzero((pixels[50:, x] == BLUE).all(-1))[0].mean() for x in (100, 350, 600)]
    assert falling == sorted(falling), "a loss that falls is drawn downwards"


@pytest.mark.parametrize("curves", [{}, {"fixed": [float("nan")]}, {"fixed": [1.0]}, {"fixed": [1.0, 1.0], "subject": []}])
def test_a_chart_of_next_to_nothing_is_drawn(curves):
    assert draw_chart(curves, 100, "title").size == (640, 400)


def test_a_sample_lies_beside_the_chart_and_tensors_come_back():
    picture = to_picture(torch.linspace(0, 1, 256).reshape(1, 16, 16, 1).expand(-1, -1, -1, 3))
    both = beside(draw_chart({}, 1, ""), picture)
    assert both.size == (640 + 400, 400)
    assert beside(picture, None) is picture
    assert torch.equal(to_tensor(to_picture(to_tensor(picture))), to_tensor(picture))
