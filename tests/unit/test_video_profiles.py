"""Embedded colour profiles: judged by what they do, not by their names, in every picture mode and behind both doors."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from scail2.errors import InputError
from scail2.video import VideoReader, image_pixels, read_image
from scail2.video.avif_colour import _code_points

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


COLOURS = np.array([(200, 30, 30), (30, 180, 40), (40, 60, 210), (128, 128, 128), (230, 200, 180)], np.uint8)
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
BT2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
BT709 = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))


def _light(primaries) -> np.ndarray:
    """Linear light of `COLOURS` in other primaries, white D65."""

    def to_xyz(colours):
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in colours]).T
        return columns * np.linalg.solve(columns, np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290]))

    v = COLOURS / 255.0
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    return np.clip(linear @ (np.linalg.inv(to_xyz(primaries)) @ to_xyz(BT709)).T, 0, 1)


def _pq(light: np.ndarray) -> np.ndarray:
    """The signal of light whose 1 is diffuse white, 203 cd/m² (SMPTE ST 2084)."""
    power = (light * 203 / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def _chrm(primaries) -> tuple[bytes, bytes]:
    values = [0.3127, 0.3290, *(value for pair in primaries for value in pair)]
    return b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values))


@pytest.mark.parametrize("where", ["path", "bytes"])
@pytest.mark.parametrize(
    ("bits", "kind", "row", "key", "shown"),
    [
        (4, 0, bytes([0x77] * 4 + [0x33] * 4), struct.pack(">H", 3), (119,) * 3),
        (2, 0, bytes([0b10101010] * 2 + [0b01010101] * 2), struct.pack(">H", 1), (170,) * 3),
        (16, 0, struct.pack(">H", 40_000) * 8 + struct.pack(">H", 1234) * 8, struct.pack(">H", 1234), (156,) * 3),
        (
            16,
            2,
            struct.pack(">3H", 51_400, 7710, 10_280) * 8 + struct.pack(">3H", 2573, 5147, 7719) * 8,
            struct.pack(">3H", 2573, 5147, 7719),
            (200, 30, 40),
        ),
        (8, 0, bytes([119] * 8 + [51] * 8), struct.pack(">H", 51), (119,) * 3),
    ],
    ids=["grey of 4 bits", "grey of 2 bits", "grey of 16 bits", "colours of 16 bits", "grey of 8 bits"],
)
def test_one_value_of_a_png_is_transparent_at_every_depth(tmp_path, bits, kind, row, key, shown, where):
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 16, 16, bits, kind, 0, 0, 0)),
        (b"tRNS", key),
        (b"IDAT", zlib.compress((b"\0" + row) * 16)),
        (b"IEND", b""),
    ]
    words = (struct.pack(">I", len(body)) + n + body + struct.pack(">I", zlib.crc32(n + body)) for n, body in chunks)
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(words))
    if where == "path":
        read = read_image(tmp_path / "cut.png")
    else:
        with Image.open(io.BytesIO((tmp_path / "cut.png").read_bytes())) as opened:
            read = image_pixels(opened)
    assert read.shape == (16, 16, 4)
    assert (read[:, :8] == (*shown, 255)).all()
    assert (read[:, 8:, 3] == 0).all()


def _tiff(path, tags: dict[int, int | tuple[int, int]], data: bytes, side: int = 16):
    """A TIFF of one strip; every tag is a short, or two."""
    tags = tags | {256: side, 257: side, 259: 1, 273: 8, 278: side, 279: len(data)}
    entries = b"".join(
        struct.pack("<HHI4s", tag, 3, len(np.atleast_1d(value)), np.atleast_1d(value).astype("<u2").tobytes())
        for tag, value in sorted(tags.items())
    )
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("bits", "meaning", "shown"), [(16, 0, (99, 216)), (16, 1, (156, 39)), (12, 1, (156, 39))])
def test_greys_of_a_tiff_count_from_black_to_white_as_it_says(tmp_path, bits, meaning, shown, orientation):
    """Pillow leaves 12 bits dark, and 16 bits whose zero is white a negative."""
    stored = np.full((16, 16), 40_000 >> (16 - bits))
    stored[8:] = 10_000 >> (16 - bits)
    if bits == 16:
        data = stored.astype("<u2").tobytes()
    else:  # two values in three bytes
        pairs = stored.reshape(-1, 2)
        data = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
        data = data.astype(np.uint8).tobytes()
    path = _tiff(tmp_path / "grey.tif", {258: bits, 262: meaning, 274: orientation, 277: 1}, data)
    picture = read_image(path)
    first, last = (picture[2, 8], picture[13, 8]) if orientation == 1 else (picture[8, 13], picture[8, 2])
    assert (tuple(first), tuple(last)) == ((shown[0],) * 3, (shown[1],) * 3)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(image_pixels(opened), picture)


def test_premultiplied_grey_becomes_straight(tmp_path):
    data = np.tile(np.array([50, 128], np.uint8), (16, 16, 1)).tobytes()
    path = _tiff(tmp_path / "grey.tif", {258: (8, 8), 262: 1, 277: 2, 338: 1}, data)
    assert np.abs(read_image(path)[3, 3].astype(int) - (100, 100, 100, 128)).max() <= 1


def test_float_greys_are_read_by_their_white_or_refused(tmp_path):
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "one.tif")
    assert np.array_equal(read_image(tmp_path / "one.tif")[..., 0], np.rint(ramp * 255))
    bright = np.where(ramp == 1, np.float32(4), ramp)  # a highlight beyond white
    bright[0, 0] = np.inf
    Image.fromarray(bright).save(tmp_path / "bright.tif")
    assert np.array_equal(read_image(tmp_path / "bright.tif")[..., 1].ravel()[1:], np.rint(ramp * 255).ravel()[1:])
    Image.fromarray(ramp * 255).save(tmp_path / "bytes.tif")
    with pytest.raises(InputError, match=r"bytes\.tif: its greys are floats up to 255, where 1 is white"):
        read_image(tmp_path / "bytes.tif")


def _gama(exponent: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(exponent * 100_000))


def _sent(values: np.ndarray) -> np.ndarray:
    return np.rint(np.array([encoded(value) for value in values.ravel()]).reshape(values.shape)).astype(np.uint8)


def _png(path, stored: np.ndarray, *chunks: tuple[bytes, bytes], mode: str = "RGB"):
    """A PNG of 8×8 patches with colour chunks in front of its pixels."""
    picture = Image.fromarray(np.tile(stored.repeat(8, 0)[None], (8, 1, 1)).astype(np.uint8)).convert(mode)
    picture.save(path)
    data = path.read_bytes()
    words = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    path.write_bytes(data[:33] + words + data[33:])  # behind the signature and IHDR
    return path


LINEAR_LIGHT, WIDE = np.rint(_light(BT709) * 255), _sent(_light(P3))
SRGB_ICC = (b"iCCP", b"sRGB\0\0" + zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()))


@pytest.mark.parametrize(
    ("stored", "chunks", "tolerance"),
    [
        pytest.param(LINEAR_LIGHT, [_gama(1.0)], 4, id="linear light"),
        pytest.param(np.rint(255 * _light(BT709) ** (1 / 1.8)), [_gama(1 / 1.8)], 1, id="old Macintosh"),
        pytest.param(WIDE, [_gama(1 / 2.2), _chrm(P3)], 2, id="wide by cHRM"),
        pytest.param(WIDE, [(b"cICP", bytes([12, 13, 0, 1]))], 2, id="wide by cICP"),
        pytest.param(WIDE, [(b"cICP", bytes([12, 13, 0, 1])), SRGB_ICC], 2, id="cICP before a profile"),
        pytest.param(COLOURS, [(b"cICP", bytes([1, 13, 0, 1])), SRGB_ICC], 0, id="sRGB by cICP before a profile"),
        pytest.param(np.rint(255 * _pq(_light(BT2020))), [(b"cICP", bytes([9, 16, 0, 1]))], 6, id="PQ"),
        pytest.param(COLOURS, [(b"cICP", bytes([1, 1, 0, 1])), _gama(0.50994)], 0, id="FFmpeg's BT.709"),
        pytest.param(COLOURS, [_gama(0.50994), _chrm(BT709)], 0, id="older FFmpeg's BT.709"),
        pytest.param(COLOURS, [_gama(1 / 2.2)], 0, id="sRGB by gamma"),
        pytest.param(COLOURS, [(b"sRGB", b"\0"), _gama(1.0)], 0, id="sRGB before gamma"),
        pytest.param(COLOURS, [SRGB_ICC, _gama(1.0), _chrm(P3)], 0, id="profile before gamma"),
        pytest.param(COLOURS, [(b"cHRM", bytes(32)), _gama(0)], 0, id="damaged numbers"),
    ],
)
def test_colours_named_by_the_chunks_of_a_png(tmp_path, stored, chunks, tolerance):
    path = _png(tmp_path / "picture.png", stored, *chunks)
    read = read_image(path)
    assert np.abs(read[4, 4::8].astype(int) - COLOURS).max() <= tolerance
    with Image.open(path) as opened:
        np.testing.assert_array_equal(image_pixels(opened), read)
        opened.load()
        np.testing.assert_array_equal(image_pixels(opened), read)
    with Image.open(io.BytesIO(path.read_bytes())) as opened:
        np.testing.assert_array_equal(image_pixels(opened), read)


@pytest.mark.parametrize(
    ("stored", "tags", "profile", "tolerance"),
    [
        pytest.param(COLOURS, (1, 13), None, 2, id="sRGB"),
        pytest.param(WIDE, (12, 13), None, 3, id="Display P3"),
        pytest.param(np.rint(255 * _pq(_light(BT2020))), (9, 16), None, 12, id="PQ in 8 bits"),
        pytest.param(
            COLOURS, (12, 13), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), 2, id="profile"
        ),
    ],
)
def test_colours_named_by_the_boxes_of_an_avif(tmp_path, stored, tags, profile, tolerance):
    picture = Image.fromarray(np.tile(stored.repeat(8, 0)[None], (8, 1, 1)).astype(np.uint8))
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    path = tmp_path / "picture.avif"
    picture.save(path, quality=100, subsampling="4:4:4", icc_profile=profile)
    data = path.read_bytes()
    at = data.index(b"colrnclx") + 8
    path.write_bytes(data[:at] + struct.pack(">HH", *tags) + data[at + 4 :])
    read = read_image(path)
    assert np.abs(read[4, 4::8, :3].astype(int) - COLOURS).max() <= tolerance
    assert np.abs(read[..., 3].astype(int) - np.asarray(picture)[..., 3]).max() <= 2
    with Image.open(path) as opened:
        np.testing.assert_array_equal(image_pixels(opened), read)
        np.testing.assert_array_equal(image_pixels(opened), read)
    with Image.open(io.BytesIO(path.read_bytes())) as opened:
        np.testing.assert_array_equal(image_pixels(opened), read)
    for cut in range(8, len(data), 97):  # boxes that end early, or claim to be longer, are passed over
        assert _code_points(data[:cut]) in (None, (1, 13), (2, 2))


def test_linear_greys_and_palettes_of_a_png(tmp_path):
    grey = _png(tmp_path / "grey.png", np.full((1, 3), 55), _gama(1.0), mode="L")
    assert np.abs(read_image(grey).astype(int) - round(encoded(55 / 255))).max() <= 1
    deep = np.full((8, 8), 14_000, np.uint16)
    Image.fromarray(deep).save(path := tmp_path / "deep.png")
    data = path.read_bytes()
    name, body = _gama(1.0)
    path.write_bytes(
        data[:33] + struct.pack(">I", 4) + name + body + struct.pack(">I", zlib.crc32(name + body)) + data[33:]
    )
    assert np.abs(read_image(path).astype(int) - encoded(14_000 / 65535)).max() <= 1
    palette = _png(tmp_path / "palette.png", LINEAR_LIGHT, _gama(1.0), mode="P")
    with Image.open(palette) as picture:
        stored = np.asarray(picture.convert("RGB"))[4, 4::8]
    expected = np.rint([[encoded(value / 255) for value in colour] for colour in stored])
    assert np.abs(read_image(palette)[4, 4::8] - expected).max() <= 1


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
