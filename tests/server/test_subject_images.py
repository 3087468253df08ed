"""Load Subject Images and Crop To Subject, on files as people have them."""

import numpy as np
import pytest
from graphs import add_tiny, add_training
from PIL import Image
from safetensors.torch import load_file

from comfy_client import ExecutionFailed, Graph, GraphRejected

LEFT, RIGHT = (200, 30, 20), (20, 60, 210)


pytestmark = pytest.mark.one_host


def two_halves(width=96, height=64):
    """A picture whose left and right can be told apart."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = LEFT, RIGHT
    return Image.fromarray(pixels)


def with_alpha(picture):
    """The left half is opaque."""
    alpha = Image.new("L", picture.size)
    alpha.paste(255, (0, 0, picture.width // 2, picture.height))
    picture.putalpha(alpha)
    return picture


@pytest.fixture
def folder(comfy_server, request):
    path = comfy_server.input / f"photos {request.node.name}"[:60].replace("[", " ").replace("]", "").replace("/", " ")
    path.mkdir(parents=True, exist_ok=True)
    return path


def loading(folder, alpha="opaque is the subject", unreadable_files="stop"):
    graph = Graph()
    return graph, graph.add("AttractorLoadSubjectImages", folder=folder.name, alpha=alpha, unreadable_files=unreadable_files)


def pictures(comfy, folder, **options):
    """(images, masks as pictures, node's text) of what is loaded."""
    graph, loaded = loading(folder, **options)
    images = graph.add("PreviewImage", images=loaded[0])
    masks = graph.add("PreviewImage", images=graph.add("MaskToImage", mask=loaded[1])[0])
    entry = comfy.run(graph)
    text = "\n".join(entry["outputs"][loaded.id]["text"])
    return (
        [np.asarray(p.convert("RGB")) for p in comfy.images(entry, images)],
        [np.asarray(p.convert("L")) for p in comfy.images(entry, masks)],
        text,
    )


def test_every_kind_of_file_is_upright_and_in_colour(comfy, folder):
    plain = two_halves()
    plain.save(folder / "1.png")
    turned = plain.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    turned.save(folder / "2.jpg", exif=exif, quality=95)
    plain.convert("CMYK").save(folder / "3.jpg", quality=95)
    plain.convert("P", palette=Image.Palette.ADAPTIVE).save(
        folder / "4.gif", save_all=True, append_images=[Image.new("P", (96, 64))]
    )
    grey = np.zeros((64, 96), dtype=np.uint16)
    grey[:, 48:] = 65535 // 2
    Image.fromarray(grey).save(folder / "5.png")
    plain.convert("L").save(folder / "6.webp", lossless=True)
    plain.resize((6000, 4000)).save(folder / "10.png")
    images, masks, text = pictures(comfy, folder)
    assert [image.shape[:2] for image in images] == [(64, 96)] * 6 + [(1365, 2048)]
    for image in (*images[:4], images[6]):
        assert np.abs(image[:, : image.shape[1] // 3].astype(int) - LEFT).max() < 12
        assert np.abs(image[:, -image.shape[1] // 3 :].astype(int) - RIGHT).max() < 12
    assert images[4][:, :40].max() == 0 and set(images[4][:, 60:].ravel()) == {127}
    assert np.ptp(images[5], axis=2).max() == 0
    assert not any(mask.any() for mask in masks)
    assert "4. 4.gif: 96 x 64, no mask, the first of several frames" in text and text.index("6.webp") < text.index("10.png")


@pytest.mark.parametrize("alpha, subject_is_left", [("opaque is the subject", True), ("transparent is the subject", False)])
def test_alpha_is_the_mask(comfy, folder, alpha, subject_is_left):
    with_alpha(two_halves()).save(folder / "cut-out.png")
    _, (mask,), text = pictures(comfy, folder, alpha=alpha)
    assert (mask[:, :48] == (255 if subject_is_left else 0)).all()
    assert (mask[:, 48:] == (0 if subject_is_left else 255)).all()
    assert "mask 50%" in text


def broken_folder(folder):
    two_halves().save(folder / "1.png")
    whole = (folder / "1.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) // 2])
    (folder / "3.jpg").write_bytes(b"this is no picture")
    (folder / "notes.txt").write_text("not looked at")
    two_halves().save(folder / "4.png")


def test_all_unreadable_files_are_named_at_once(comfy, folder):
    broken_folder(folder)
    with pytest.raises(ExecutionFailed) as failed:
        pictures(comfy, folder)
    for word in ("folder: ", "2.png", "3.jpg", "Replace or remove", "'leave out'"):
        assert word in failed.value.exception_message
    assert "notes.txt" not in failed.value.exception_message


def test_unreadable_files_can_be_left_out(comfy, folder):
    broken_folder(folder)
    images, masks, text = pictures(comfy, folder, unreadable_files="leave out")
    assert len(images) == len(masks) == 2
    assert "2. 4.png" in text and "left out: 3.jpg" in text


def test_an_empty_folder_is_said(comfy, folder):
    with pytest.raises(ExecutionFailed, match="no images in"):
        pictures(comfy, folder)


@pytest.mark.parametrize("name", ["../output", "/etc", "absent"])
def test_only_the_input_folder_is_read(comfy, comfy_server, name):
    graph = Graph()
    loaded = graph.add("AttractorLoadSubjectImages", folder=name, alpha="ignored", unreadable_files="stop")
    graph.add("PreviewImage", images=loaded[0])
    with pytest.raises((GraphRejected, ExecutionFailed)) as failed:
        comfy.run(graph)
    assert "folder" in str(failed.value)


def test_a_folder_of_differing_photos_trains_a_token(comfy, comfy_server, folder):
    """Folder -> crop around the subject -> train, and the lists alone -> train."""
    for i, size in enumerate(((96, 64), (200, 150), (100, 160))):
        with_alpha(two_halves(*size)).save(folder / f"{i}.png")
    for cropped in (True, False):
        graph, loaded = loading(folder)
        images, masks = loaded[0], loaded[1]
        if cropped:
            cut = graph.add(
                "AttractorCropToSubject", images=images, masks=masks, where="around the subject", margin=0.1, resolution=128
            )
            images, masks = cut[0], cut[1]
            shown = graph.add("PreviewImage", images=images)
        name = f"folder-{cropped}"
        add_training(graph, add_tiny(graph), images, masks, name=name, method="textual_inversion+", steps=1)
        entry = comfy.run(graph)
        if cropped:
            assert [picture.size for picture in comfy.images(entry, shown)] == [(128, 128)] * 3
        tensors = load_file(comfy_server.output / "neti" / name / f"{name}.safetensors")
        assert len(tensors) == 4, "a subject and one attractor for each photo"


@pytest.mark.one_host
def test_photos_keep_their_shapes_and_a_run_keeps_its_aspect(comfy, comfy_server, folder):
    """Two sideways, one upright: buckets of 128 x 192 and 192 x 128, and samples of the shape that most photos have."""
    for i, size in enumerate(((160, 100), (100, 160), (160, 100))):
        with_alpha(two_halves(*size)).save(folder / f"{i}.png")

    def run(steps, **changes):
        graph, loaded = loading(folder)
        inputs = {"method": "textual_inversion+", "sample_every": 2, "sample_steps": 1, "resume": True, **changes}
        add_training(graph, add_tiny(graph), loaded[0], loaded[1], name="shapes", steps=steps, **inputs)
        with comfy.listen() as listener:
            comfy.run(graph)
        return " ".join(message["text"] for message in listener.of_type("text"))

    assert "cut to fit" not in run(2)
    output = comfy_server.output / "neti" / "shapes"
    assert Image.open(output / "samples" / "step-000002.png").size == (192, 128)
    with pytest.raises(ExecutionFailed, match=r"size in training was 192 x 128 and 128 x 192 .*, is 128 x 128 "):
        run(3, aspect="crop")
    assert "cut to fit (image 1 loses 38% as 128 x 128" in run(3, aspect="crop", resume=False)


def test_crop_needs_a_mask_for_each_image(comfy, folder):
    two_halves().save(folder / "1.png")
    graph, loaded = loading(folder)
    two = graph.add("SolidMask", value=1.0, width=96, height=64)
    masks = graph.add("BatchMasksNode", **{"masks.mask0": two[0], "masks.mask1": two[0]})
    cut = graph.add("AttractorCropToSubject", images=loaded[0], masks=masks[0], where="centre", margin=0.1, resolution=64)
    graph.add("PreviewImage", images=cut[0])
    with pytest.raises(ExecutionFailed, match="1 images and 2 masks"):
        comfy.run(graph)
