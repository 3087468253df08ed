"""Which files are photos, and that each of them is read rightly or named, whatever it is called and however it is damaged."""

import io
import os
import random
import struct
import sys
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

from attractor.nodes.pictures import FORMATS, BadPicture, is_picture, natural_order, printable, read_picture
from mutations import damaged, rounds
from pdst_set import picture

SECONDS = 5
SAVED = {
    **{"photo.jpg": {}, "photo.jfif": {"format": "JPEG"}, "photo.png": {}, "photo.webp": {}, "photo.bmp": {}, "photo.gif": {}},
    **{"photo.tif": {}, "photo.ppm": {}, "photo.apng": {"format": "PNG"}, "photo.mpo": {"format": "MPO"}},
    **({"photo.jp2": {}} if features.check("jpg_2000") else {}),
    **({"photo.avif": {}} if features.check("avif") else {}),
}


def refused(path):
    assert is_picture(path), "a photo that cannot be read is named, not passed over"
    started = time.monotonic()
    with pytest.raises(BadPicture) as error:
        read_picture(path)
    assert time.monotonic() - started < SECONDS
    assert str(error.value).startswith(f"{path.name} cannot be read ({error.value.reason}). ")
    assert len(str(error.value)) < 400 and "\n" not in str(error.value) and str(path.parent) not in str(error.value)
    return error.value.reason


@pytest.mark.parametrize("name", SAVED)
def test_a_photo_is_known_by_its_content(tmp_path, name):
    picture(1).save(tmp_path / name, **SAVED[name])
    for other in (tmp_path / name, tmp_path / "photo", tmp_path / "photo.dat", tmp_path / "photo.heic"):
        if not other.exists():
            other.write_bytes((tmp_path / name).read_bytes())
        assert is_picture(other)
        image, alpha, _ = read_picture(other)
        assert image.shape == (72, 96, 3) and alpha is None
        assert (image - torch.from_numpy(np.asarray(picture(1), dtype=np.float32) / 255)).abs().mean() < 0.1


def test_every_kind_in_the_list_is_tried():
    Image.init()
    known = {Image.registered_extensions().get(os.path.splitext(name)[1]) for name in SAVED}
    assert known >= {name for name in FORMATS if name in Image.SAVE}


@pytest.mark.parametrize("name", SAVED)
def test_a_damaged_photo_is_read_or_named(tmp_path, name):
    picture(1).save(tmp_path / name, **SAVED[name])
    content, good = (tmp_path / name).read_bytes(), []
    path = tmp_path / f"broken{os.path.splitext(name)[1]}"
    for number in rounds(60):
        path.write_bytes(damaged(content, random.Random(f"{name} {number}")))
        started = time.monotonic()
        assert is_picture(path)
        try:
            image, alpha, _ = read_picture(path, random.Random(number).choice([0, 16]))
        except BadPicture as error:
            good.append(False)
            assert len(str(error)) < 400
        except Exception as error:
            raise AssertionError(f"{name} {number}: {type(error).__name__} instead of a sentence") from error
        else:
            good.append(True)
            for values in filter(lambda values: values is not None, (image, alpha)):
                assert torch.isfinite(values).all() and 0 <= values.min() and values.max() <= 1
        assert time.monotonic() - started < SECONDS
    assert not all(good)


LEFT_BESIDE = [
    *("._photo.jpg", ".hidden.png", "Thumbs.db", "desktop.ini", "photo-masklabel.png", "photo-condlabel.png"),
    *("notes.txt", "photo.json", "read me", "model.safetensors"),
]


def test_what_systems_and_other_trainers_leave_is_no_photo(tmp_path):
    whole = io.BytesIO()
    picture(1).save(whole, "PNG")
    for name in LEFT_BESIDE:
        path = tmp_path / name
        path.write_bytes(whole.getvalue() if path.suffix in (".png", ".jpg", ".txt", ".json") else b"P5 notes on photos, BMW")
        assert not is_picture(path), name
    (tmp_path / "folder.png").mkdir()
    assert not is_picture(tmp_path / "folder.png") and not is_picture(tmp_path / "absent.png")
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe.png")
        assert not is_picture(tmp_path / "pipe.png")
        with pytest.raises(BadPicture, match="a pipe"):
            read_picture(tmp_path / "pipe.png")


def heic(path):
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))


def photoshop(path):
    path.write_bytes(b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(300))


def raw(path):
    picture(1).save(path, format="TIFF")  # to Pillow a raw photo is one, of the size of its thumbnail


def drawing(path):
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_size(width, height, depth=8, colour=2):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")


def many_pixels(path):
    path.write_bytes(png_of_size(11_000, 10_000))


def far_too_many_pixels(path):
    path.write_bytes(png_of_size(2**31 - 1, 2**31 - 1))


def no_pixels(path):
    path.write_bytes(png_of_size(0, 5))


def a_large_file(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with open(path, "r+b") as file:
        file.truncate(2**30)


def half_a_photo(path):
    picture(1).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:900])


def only_nan(path):
    Image.fromarray(np.full((8, 9), np.nan, dtype=np.float32)).save(path, format="TIFF")


UNREADABLE = {
    "photo.heic": (heic, "convert it to JPEG or PNG"),
    "photo.HEIF": (heic, "convert it to JPEG or PNG"),
    "renamed.jpg": (heic, "convert it to JPEG or PNG"),
    "layers.psd": (photoshop, "of a kind that is not read here"),
    "camera.dng": (raw, "a raw photo: convert it"),
    "drawing.svg": (drawing, "of a kind that is not read here"),
    "empty.png": (lambda path: path.touch(), "damaged"),
    "many.png": (many_pixels, "110 million pixels, and 100 million is the most"),
    "too-many.png": (far_too_many_pixels, "far too many pixels"),
    "none.png": (no_pixels, ""),
    "large.png": (a_large_file, "1,024 MB, and a photo has at most 512 MB"),
    "half.jpg": (half_a_photo, "truncated"),
    "nan.tif": (only_nan, "not finite"),
    "photo.eps": (lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), None),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_named_with_the_reason(tmp_path, name):
    write, words = UNREADABLE[name]
    write(tmp_path / name)
    if words is None:  # runs Ghostscript
        assert not is_picture(tmp_path / name)
    else:
        assert words in refused(tmp_path / name)


def test_an_animation_without_end_is_a_photo(tmp_path):
    """Its frames are not counted."""
    picture(1, (4, 4)).save(tmp_path / "long.gif", save_all=True, append_images=[picture(2, (4, 4))], duration=50)
    whole = (tmp_path / "long.gif").read_bytes()
    start = whole.rindex(b"\x21\xf9\x04")  # of the second frame
    (tmp_path / "long.gif").write_bytes(whole[:start] + whole[start:-1] * 100_000 + b";")
    started = time.monotonic()
    assert read_picture(tmp_path / "long.gif")[2] == "the first of several frames"
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "white, kind, mode",
    [(1, np.float32, "F"), (255, np.float32, "F"), (65535, np.float32, "F"), (1e6, np.float32, "F")]
    + [(255, np.int32, "I"), (65535, np.int32, "I"), (1e6, np.int32, "I"), (65535, np.uint16, "I;16")],
)
def test_more_than_8_bits_are_neither_black_nor_white(tmp_path, white, kind, mode):
    ramp = np.linspace(0, white, 30 * 40).reshape(30, 40).astype(kind)
    Image.fromarray(ramp).save(tmp_path / "deep.tif")
    with Image.open(tmp_path / "deep.tif") as file:
        assert file.mode == mode
    for side, shape in ((0, (30, 40, 3)), (20, (15, 20, 3))):
        image = read_picture(tmp_path / "deep.tif", side)[0]
        assert image.shape == shape and image.min() < 0.03 and image.max() > 0.97 and abs(image.mean() - 0.5) < 0.01
    assert torch.isfinite(image).all()


def test_highlights_beyond_white_are_white(tmp_path):
    Image.fromarray(np.array([[0.5, 3.0, np.nan, np.inf, -1.0]], dtype=np.float32)).save(tmp_path / "hdr.tif")
    assert read_picture(tmp_path / "hdr.tif")[0][0, :, 0].tolist() == [0.5, 1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png"])
def test_a_large_photo_is_scaled_down_as_it_is_read(tmp_path, name):
    picture(1, (1200, 900)).save(tmp_path / name)
    small, whole = read_picture(tmp_path / name, 100)[0], read_picture(tmp_path / name)[0]
    assert small.shape == (75, 100, 3) and whole.shape == (900, 1200, 3)
    expected = torch.nn.functional.interpolate(whole.movedim(-1, 0)[None], (75, 100), mode="area")[0].movedim(0, -1)
    assert (small - expected).abs().mean() < 0.02
    assert read_picture(tmp_path / name, 1200)[0].shape == (900, 1200, 3), "photos do not grow"


def test_colour_below_transparency_survives_scaling(tmp_path):
    pixels = np.full((64, 64, 4), (200, 100, 50, 0), dtype=np.uint8)
    pixels[:, :32, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "cut-out.png")
    image, alpha, _ = read_picture(tmp_path / "cut-out.png", 16)
    assert (image * 255 - torch.tensor([200.0, 100.0, 50.0])).abs().max() < 1
    assert alpha.shape == (16, 16) and alpha[:, :7].min() == 1 and alpha[:, 9:].max() == 0


def test_names_are_in_natural_order_whatever_digits_they_have():
    names = ["a10.png", "a2.png", "A2.png", "²", "①", "1²", "٣.png", "a", "10", "9", "", "a1b", "a1b2", "x\udcff"]
    ordered = sorted(names, key=natural_order)
    assert ordered == sorted(reversed(names), key=natural_order), "whatever order they come in"
    assert ordered.index("9") < ordered.index("10") and ordered.index("a2.png") < ordered.index("a10.png")


def test_a_name_that_is_no_utf8_can_be_shown():
    assert printable(os.fsdecode("été²".encode())) == "été²"
    if sys.platform != "win32":
        assert printable(os.fsdecode(b"photo\xff.png")) == "photo\\xff.png"
        printable(os.fsdecode(bytes(range(1, 256)))).encode()
