"""Pictures, resizing, and the way between floats and bytes."""

import numpy as np
import pytest
import torch
from film_samples import numbered_frame
from PIL import Image, ImageCms

from scail2.errors import InputError
from scail2.video import read_image, resize_cover, resize_letterbox, to_float, to_uint8


def save(path, picture: Image.Image, **kwargs):
    picture.save(path, **kwargs)
    return path


def test_modes_become_rgb_or_rgba(tmp_path):
    rgb = numbered_frame(77)
    picture = Image.fromarray(rgb)
    assert (read_image(save(tmp_path / "rgb.png", picture)) == rgb).all()
    grey = read_image(save(tmp_path / "grey.png", picture.convert("L")))
    assert grey.shape == (48, 64, 3)
    assert (grey[..., 0] == grey[..., 2]).all()
    assert read_image(save(tmp_path / "palette.png", picture.convert("P"))).shape == (48, 64, 3)
    assert read_image(save(tmp_path / "cmyk.jpg", picture.convert("CMYK"))).shape == (48, 64, 3)
    alpha = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    rgba = np.dstack([rgb, alpha])
    assert (read_image(save(tmp_path / "rgba.png", Image.fromarray(rgba))) == rgba).all()
    assert (read_image(save(tmp_path / "rgba.webp", Image.fromarray(rgba), lossless=True, exact=True)) == rgba).all()
    # an alpha channel that is opaque everywhere says nothing
    opaque = np.dstack([rgb, np.full((48, 64), 255, np.uint8)])
    assert (read_image(save(tmp_path / "opaque.png", Image.fromarray(opaque))) == rgb).all()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    read = read_image(save(tmp_path / "deep.png", Image.fromarray(values)))
    assert np.abs(read[..., 0] - values / 257.0).max() <= 0.5


def test_exif_orientation_is_applied(tmp_path):
    picture = Image.fromarray(numbered_frame(5))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise to see it upright
    read = read_image(save(tmp_path / "turned.png", picture, exif=exif))
    np.testing.assert_array_equal(read, np.rot90(numbered_frame(5), -1))


def test_an_embedded_profile_is_converted_to_srgb(tmp_path):
    """A profile whose red and green primaries are exchanged: the stored red is in truth a green."""
    picture = Image.new("RGB", (16, 16), (200, 30, 30))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (read_image(save(tmp_path / "srgb.png", picture, icc_profile=profile)) == (200, 30, 30)).all()
    named = profile.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    exchanged = named.replace(b"rXYZ", b"temp").replace(b"gXYZ", b"rXYZ").replace(b"temp", b"gXYZ")
    read = read_image(save(tmp_path / "exchanged.png", picture, icc_profile=exchanged)).astype(int)
    assert np.abs(read - (30, 200, 30)).max() <= 2
    broken = read_image(save(tmp_path / "broken.png", picture, icc_profile=b"not a profile"))
    assert (broken == (200, 30, 30)).all()


# Resizing


def test_cover_keeps_the_centre_and_the_aspect():
    """A centred square of a wide picture stays where it is: the crop takes the same from both sides."""
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[10:30, 50:70] = 255
    out = resize_cover(wide, 80, 80)
    np.testing.assert_array_equal(out, out[:, ::-1])
    np.testing.assert_array_equal(out, out[::-1])
    bright = out[..., 0] > 127
    assert bright.any(axis=0).sum() == bright.any(axis=1).sum() == 40


def test_bicubic_is_antialiased():
    """Single-pixel stripes shrunk by eight become grey; without a low-pass filter they would alias to full contrast."""
    stripes = np.zeros((64, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    out = resize_cover(stripes, 8, 32).astype(int)
    assert np.abs(out[:, 1:-1] - 127).max() <= 2
    assert np.abs(out - 127).max() <= 6  # the border sees half a stripe more of one colour
    assert set(np.unique(resize_cover(stripes, 8, 32, interpolation="nearest"))) <= {0, 255}


def test_bytes_and_floats_arrays_and_tensors_agree():
    clip = np.random.default_rng(2).integers(64, 192, (2, 37, 51, 3), dtype=np.uint8)
    as_bytes = resize_cover(clip, 24, 20)
    as_float = resize_cover(clip.astype(np.float32), 24, 20)
    assert np.abs(as_float - as_bytes).max() <= 1
    tensor = torch.from_numpy(clip).permute(0, 3, 1, 2)
    resized = resize_cover(tensor.float(), 24, 20)
    assert resized.shape == (2, 3, 24, 20)
    torch.testing.assert_close(resized, torch.from_numpy(as_float).permute(0, 3, 1, 2))
    assert torch.equal(resize_cover(tensor, 24, 20), torch.from_numpy(as_bytes).permute(0, 3, 1, 2))
    assert resize_cover(tensor.to(torch.bfloat16), 24, 20).dtype == torch.bfloat16


def test_antialiased_bicubic_of_torch_is_the_same_filter():
    """The kernel is the usual one (a = -0.5 with a widened support): torch's own agrees where both resize everything."""
    clip = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(1))
    ours = resize_cover(clip, 20, 30)
    theirs = torch.nn.functional.interpolate(clip, (20, 30), mode="bicubic", antialias=True)
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


def test_same_size_is_untouched_and_shapes_are_kept():
    clip = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 24, 4), dtype=np.uint8)
    assert resize_cover(clip, 16, 24) is clip
    assert resize_cover(clip, 8, 8).shape == (2, 3, 8, 8, 4)
    assert resize_cover(clip[0, 0], 40, 8).shape == (40, 8, 4)


def test_extreme_aspect_needs_no_extreme_memory():
    """Covering 512 × 512 with a 8 × 8000 strip: scaling everything first would need 512 × 512,000 pixels."""
    strip = np.zeros((8, 8000, 3), np.uint8)
    strip[:, 3996:4004] = 200
    out = resize_cover(strip, 512, 512)
    assert out.shape == (512, 512, 3)
    assert (out[:, 64:448] > 190).all()


def test_letterbox():
    picture = np.full((20, 40, 3), 255, np.uint8)
    out = resize_letterbox(picture, 32, 32, fill=(10, 20, 30))
    assert (out[8:24] == 255).all()
    assert (out[:8] == (10, 20, 30)).all()
    assert (out[24:] == (10, 20, 30)).all()


@pytest.mark.parametrize("size", [(0, 8), (-3, 8), (8, float("nan")), (8.5, 8), (30_000, 30_000), (True, 8)])
def test_impossible_targets(size):
    with pytest.raises(InputError):
        resize_cover(np.zeros((16, 16, 3), np.uint8), *size)


# Floats and bytes


def test_every_byte_survives_the_way_through_floats():
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    floats = to_float(frames)
    assert floats.shape == (1, 3, 16, 16)
    assert (floats.min().item(), floats.max().item()) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_uint8(floats), frames)
    np.testing.assert_array_equal(to_uint8(floats.to(torch.float64).numpy()), frames)


def test_clipping_and_rounding():
    values = torch.tensor([-1.5, -1.0, 0.0, 1.0, 9.0, 126.4 / 127.5 - 1]).reshape(1, 1, 1, 6).repeat(1, 3, 1, 1)
    assert to_uint8(values)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255, 126]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_floats_are_not_painted_black(value):
    frames = torch.zeros(1, 3, 8, 8)
    frames[0, 0, 3, 3] = value
    with pytest.raises(InputError, match=r"NaN or infinite values.*bfloat16 or float32"):
        to_uint8(frames)
    with pytest.raises(ValueError, match="shape"):
        to_uint8(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="must be uint8"):
        to_float(np.zeros((1, 8, 8, 3)))
