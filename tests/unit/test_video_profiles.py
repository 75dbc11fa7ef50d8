"""Embedded colour profiles: judged by what they do, not by their names, in every picture mode and behind both doors."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from scail2.video import VideoReader, image_pixels, read_image

# sRGB's primaries as a profile stores them: adapted to D50.
_D50 = (0.9642, 1.0, 0.8249)
_SRGB = {b"rXYZ": (0.4361, 0.2225, 0.0139), b"gXYZ": (0.3851, 0.7169, 0.0971), b"bXYZ": (0.1431, 0.0606, 0.7141)}


def profile(space: bytes, gamma: float, name: str = "sRGB built-in") -> bytes:
    """A small ICC profile, version 2: ``space`` is ``b"RGB "`` or ``b"GRAY"``, its curves a plain power."""

    def xyz(values):
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = name.encode()
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + bytes(78),
        b"wtpt": xyz(_D50),
    }
    if space == b"RGB ":
        tags |= {key: xyz(value) for key, value in _SRGB.items()} | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    else:
        tags[b"kTRC"] = curve
    table, body, place = b"", b"", 128 + 4 + 12 * len(tags)
    for key, value in tags.items():
        value += bytes(-len(value) % 4)
        table += key + struct.pack(">II", place + len(body), len(value))
        body += value
    head = bytes(8) + b"\2\x40\0\0" + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">3i", *(round(v * 65536) for v in _D50)) + bytes(48)
    whole = head + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def encoded(linear: float) -> float:
    """sRGB's value 0 … 255 of linear light 0 … 1."""
    return 255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055)


LINEAR = profile(b"RGB ", 1.0)
LINEAR_GREY = profile(b"GRAY", 1.0, "grey sRGB")
STORED = (100, 20, 200)
SHOWN = [encoded(value / 255) for value in STORED]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "PA-like"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_a_linear_profile_named_srgb_is_applied(tmp_path, mode, suffix):
    """The name says sRGB, the curve is a straight line: taken by its name, 100 would stay 100 and be far too dark."""
    picture = Image.new("RGB", (16, 16), STORED)
    if mode == "RGBA":
        picture = picture.convert("RGBA")
        picture.putalpha(Image.linear_gradient("L").resize((16, 16)))
    if mode == "P":
        picture = picture.quantize(4)
    if mode == "PA-like":  # a palette with one transparent entry
        picture = picture.quantize(4)
        picture.info["transparency"] = 3
    if suffix == ".webp" and picture.mode == "P":
        pytest.skip("WebP has no palette")
    path = tmp_path / f"picture{suffix}"
    picture.save(path, icc_profile=LINEAR, **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    read = read_image(path)
    assert np.abs(read[..., :3].astype(float) - SHOWN).max() <= 1.5
    if mode == "RGBA":
        np.testing.assert_array_equal(read[..., 3], np.asarray(picture)[..., 3])
    with Image.open(path) as opened:
        np.testing.assert_array_equal(image_pixels(opened), read)


@pytest.mark.parametrize("mode", ["L", "LA"])
@pytest.mark.parametrize("data", [LINEAR_GREY, LINEAR], ids=["grey", "rgb"])
def test_grey_pictures(tmp_path, mode, data):
    picture = Image.new(mode, (16, 16), (100, 50)[: len(mode)] if mode == "LA" else 100)
    picture.save(tmp_path / "grey.png", icc_profile=data)
    read = read_image(tmp_path / "grey.png")
    assert np.abs(read[..., :3].astype(float) - encoded(100 / 255)).max() <= 1.5
    assert mode == "L" or (read[..., 3] == 50).all()


@pytest.mark.parametrize("data", [LINEAR_GREY, LINEAR], ids=["grey", "rgb"])
def test_grey_of_sixteen_bits_keeps_its_steps(tmp_path, data):
    values = np.tile(np.linspace(20_000, 40_000, 256).astype(np.uint16), (16, 1))
    Image.fromarray(values).save(tmp_path / "deep.png", icc_profile=data)
    read = read_image(tmp_path / "deep.png")[0, :, 0].astype(float)
    assert np.abs(read - [encoded(v / 65535) for v in values[0]]).max() <= 1.5
    with Image.open(tmp_path / "deep.png") as opened:
        np.testing.assert_array_equal(image_pixels(opened)[0, :, 0], read)


def test_a_profile_that_does_what_srgb_does_changes_no_byte(tmp_path):
    genuine = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    renamed = genuine.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    assert renamed != genuine
    noise = np.random.default_rng(4).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for name, data in (("genuine", genuine), ("renamed", renamed)):
        Image.fromarray(noise).save(tmp_path / f"{name}.png", icc_profile=data)
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), noise)


def test_cmyk_goes_through_no_profile_of_another_kind(tmp_path):
    picture = Image.new("CMYK", (16, 16), (200, 30, 40, 10))
    picture.save(tmp_path / "plain.tif")
    picture.save(tmp_path / "wrong.tif", icc_profile=LINEAR)
    np.testing.assert_array_equal(read_image(tmp_path / "wrong.tif"), read_image(tmp_path / "plain.tif"))


def test_animations_and_folders_have_the_same_colours(tmp_path):
    pictures = [Image.new("RGB", (16, 16), (100 + i, 20, 200)) for i in range(3)]
    pictures[0].save(
        tmp_path / "moving.png", save_all=True, append_images=pictures[1:], duration=50, icc_profile=LINEAR
    )
    (tmp_path / "folder").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "folder" / f"{number}.png", icc_profile=LINEAR)
    for path in (tmp_path / "moving.png", tmp_path / "folder"):
        read = VideoReader(path).frames(0, 3).astype(float)
        for number in range(3):
            assert np.abs(read[number] - [encoded((100 + number) / 255), *SHOWN[1:]]).max() <= 1.5
