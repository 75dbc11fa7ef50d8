"""Bad files: one clear sentence, never a traceback from a decoder, never a huge allocation."""

import os
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from film_samples import numbered_frame, write_film
from PIL import Image

from scail2.errors import InputError
from scail2.video import VideoReader, probe, read_image
from scail2.video.source import MAX_FRAMES


def refused(match: str, path, **kwargs):
    """The sentence for a file that must be refused, whichever way it is read."""

    def read():
        reader = VideoReader(path, **kwargs)
        reader.frames(0, len(reader))

    with pytest.raises(InputError, match=match) as caught:
        read()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path).rstrip("/") in sentence or kwargs
    return sentence


@pytest.mark.parametrize(
    "name", ["a.mp4", "front.mp4", "a.mkv", "fragmented.mp4", "a.webm", "a.gif", "a.webp", "a.png"]
)
@pytest.mark.parametrize("share", [0.15, 0.5, 0.85])
def test_truncated(tmp_path, name, share):
    if name.endswith((".gif", ".webp", ".png")):
        first, *others = (Image.fromarray(numbered_frame(i)) for i in range(8))
        first.save(tmp_path / name, save_all=True, append_images=others, duration=60)
    else:
        muxer = {"front.mp4": "faststart", "fragmented.mp4": "frag_keyframe+empty_moov"}.get(name)
        options = {"g": "12"} if not name.endswith("webm") else {"cpu-used": "8"}
        codec = "libvpx" if name.endswith("webm") else "libx264"
        write_film(tmp_path / name, 40, codec=codec, options=options, muxer={"movflags": muxer} if muxer else {})
    content = (tmp_path / name).read_bytes()
    (tmp_path / f"cut_{name}").write_bytes(content[: int(len(content) * share)])
    refused("truncated|damaged|cut off|no frames", tmp_path / f"cut_{name}")


def test_empty_text_missing_and_odd_paths(tmp_path):
    (tmp_path / "empty.mp4").touch()
    refused("file is empty", tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("this is no film " * 50)
    refused("not a video", tmp_path / "text.mp4")
    (tmp_path / "zeros.mp4").write_bytes(bytes(5000))
    refused("not a video", tmp_path / "zeros.mp4")
    refused("no such file", tmp_path / "missing.mp4")
    refused("cannot be opened", tmp_path / ("long" * 100))
    refused("neither a file nor a folder", "/dev/null")
    (tmp_path / "folder").mkdir()
    refused("holds no pictures", tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe.mp4")
    refused("neither a file nor a folder", tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path / "folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_without_permission(tmp_path):
    film = write_film(tmp_path / "film.mp4", 2)
    film.chmod(0)
    refused("permission", film)
    (tmp_path / "folder").mkdir(mode=0)
    refused("permission", tmp_path / "folder")


def test_only_sound(tmp_path):
    with av.open(str(tmp_path / "song.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=44_100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.rate, frame.pts = 44_100, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    refused("only sound", tmp_path / "song.mp4")


@pytest.mark.parametrize("name", ["none.mp4", "none.mkv"])
def test_zero_frames(tmp_path, name):
    with av.open(str(tmp_path / name), "w") as out:
        stream = out.add_stream("libx264", rate=16)
        stream.height, stream.width = 48, 64
        out.start_encoding()
    refused("no frames|no video|cut off", tmp_path / name)


def test_one_pixel(tmp_path):
    with av.open(str(tmp_path / "dot.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=16)
        stream.height, stream.width, stream.pix_fmt = 1, 1, "bgr0"
        frame = av.VideoFrame.from_ndarray(np.zeros((1, 1, 3), np.uint8), format="rgb24").reformat(format="bgr0")
        frame.pts = 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    refused("1×1 pixels is too small", tmp_path / "dot.mkv")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(InputError, match="too small"):
        read_image(tmp_path / "dot.png")


def patched(film, marker: bytes, offset: int, value: bytes, *, after: bytes = b""):
    """Overwrites bytes at a distance from the first marker (behind ``after``)."""
    content = bytearray(film.read_bytes())
    place = content.find(marker, content.find(after) if after else 0)
    assert place >= 0
    content[place + offset : place + offset + len(value)] = value
    film.write_bytes(content)
    return film


def test_twenty_thousand_squared_headers(tmp_path):
    """Refused from the header alone: reading 20,000 × 20,000 pixels would need 1.2 GB a frame."""
    side = struct.pack(">H", 20_000)
    film = patched(write_film(tmp_path / "sample_entry.mp4", 4), b"avc1", 28, side * 2, after=b"stsd")
    refused("20000×20000 pixels is more", film)
    film = patched(
        write_film(tmp_path / "track.mp4", 4), b"tkhd", 4 + 76, struct.pack(">II", 20_000 << 16, 20_000 << 16)
    )
    refused("20000×20000 pixels is more", film)
    # Matroska: PixelWidth (B0) and PixelHeight (BA) with their one-byte values widened by the writer's own two bytes
    film = write_film(tmp_path / "wide.mkv", 2, codec="ffv1", pixels="bgr0", size=(256, 512))
    patched(patched(film, b"\xb0\x82\x02\x00", 2, side), b"\xba\x82\x01\x00", 2, side)
    refused("20000×20000 pixels is more", film)


def test_a_fragment_of_millions_of_frames_is_refused_before_they_are_listed(tmp_path):
    film = write_film(tmp_path / "film.mp4", 4, muxer={"movflags": "frag_keyframe+empty_moov"})
    refused("announces 83,886,080 pictures", patched(film, b"trun", 8, struct.pack(">I", 0x05000000)))


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 20_000])
def test_oversized_pictures(tmp_path, side):
    (tmp_path / "huge.png").write_bytes(png_header(side, side))
    with pytest.raises(InputError, match=r"more than the limit|larger than any"):
        read_image(tmp_path / "huge.png")
    (tmp_path / "cut.png").write_bytes(png_header(300, 300))
    with pytest.raises(InputError, match="damaged or cut off"):
        read_image(tmp_path / "cut.png")
    first, second = (Image.fromarray(numbered_frame(i)) for i in range(2))
    first.save(tmp_path / "huge.gif", save_all=True, append_images=[second])
    content = bytearray((tmp_path / "huge.gif").read_bytes())
    content[6:10] = struct.pack("<HH", side, side)
    (tmp_path / "huge.gif").write_bytes(content)
    refused("more than the limit|larger than any", tmp_path / "huge.gif")


@pytest.mark.parametrize(
    ("brand", "others"), [(b"heic", b"mif1heic"), (b"mif1", b"heicmiaf"), (b"heix", b"mif1"), (b"msf1", b"hevc")]
)
@pytest.mark.parametrize("name", ["photo.heic", "photo.jpg", "photo"])
def test_phone_pictures_are_named_with_the_way_out(tmp_path, name, brand, others):
    box = b"ftyp" + brand + bytes(4) + others
    (tmp_path / name).write_bytes((len(box) + 4).to_bytes(4) + box + bytes(600))
    assert "save it as JPEG or PNG" in refused("is a HEIC picture", tmp_path / name)
    with pytest.raises(InputError, match="is a HEIC picture, as phones take them"):
        read_image(tmp_path / name)


def test_an_avif_that_claims_to_be_heif_first_is_read(tmp_path):
    Image.new("RGB", (16, 16), (200, 30, 30)).save(tmp_path / "a.avif", quality=100)
    content = (tmp_path / "a.avif").read_bytes()
    (tmp_path / "b.avif").write_bytes(content[:8] + b"mif1" + content[12:])
    assert np.abs(read_image(tmp_path / "b.avif").astype(int) - (200, 30, 30)).max() < 6


def test_names_that_lie(tmp_path):
    film = write_film(tmp_path / "film.mp4", 2)
    for name in ("film.png", "film.txt", "film.mkv"):
        (tmp_path / name).write_bytes(film.read_bytes())
        assert "rename it to .mp4" in refused("the content is mp4", tmp_path / name)
    (tmp_path / "no_suffix").write_bytes(film.read_bytes())
    assert probe(tmp_path / "no_suffix").frames == 2
    (tmp_path / "film.mov").write_bytes(film.read_bytes())  # the same family
    assert probe(tmp_path / "film.mov").frames == 2
    picture = Image.fromarray(numbered_frame(3))
    picture.save(tmp_path / "still.png")
    refused("still picture", tmp_path / "still.png")
    picture.save(tmp_path / "still.jpg")
    refused("still picture", tmp_path / "still.jpg")
    (tmp_path / "still.mp4").write_bytes((tmp_path / "still.png").read_bytes())
    refused("the content is png", tmp_path / "still.mp4")
    with pytest.raises(InputError, match="is a video"):
        read_image(film)
    (tmp_path / "really_png.jpg").write_bytes((tmp_path / "still.png").read_bytes())
    assert read_image(tmp_path / "really_png.jpg").shape == (48, 64, 3)


def test_folder_whose_transparency_begins_late(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "1.png")
    Image.new("RGBA", (32, 32), (1, 2, 3, 255)).save(tmp_path / "2.png")
    Image.new("RGBA", (32, 32), (1, 2, 3, 9)).save(tmp_path / "3.png")
    frames = VideoReader(tmp_path)
    assert frames.frames(0, 2).shape == (2, 32, 32, 3)
    with pytest.raises(InputError, match=r"3\.png: has transparent pixels, but the first picture .* has no alpha"):
        frames.frames(2, 3)


def test_folder_with_another_size(tmp_path):
    for number in range(3):
        Image.fromarray(numbered_frame(number, 48 + 2 * (number == 2), 64)).save(tmp_path / f"{number}.png")
    with pytest.raises(InputError, match=r"2\.png: 64×50 pixels"):
        VideoReader(tmp_path).frames(0, 3)


@pytest.mark.parametrize(("name", "codec", "pixels"), [("a.mkv", "ffv1", "bgr0"), ("a.mp4", "libx264", "yuv420p")])
def test_damage_in_the_middle_names_the_time(tmp_path, name, codec, pixels):
    film = write_film(tmp_path / name, 24, codec=codec, pixels=pixels, options={"g": "6"})
    with av.open(str(film)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(film.read_bytes())
    position, size = packets[12]
    content[position + size // 4 : position + size + 3] = b"\xff" * (size - size // 4 + 3)
    film.write_bytes(content)
    reader = VideoReader(film)
    reader.frames(0, 8)
    with pytest.raises(InputError, match=r"at 0\.[678]\d s"):
        reader.frames(8, 24)


def test_size_change_in_mid_film(tmp_path):
    with av.open(str(tmp_path / "two_sizes.mkv"), "w") as out:
        stream = out.add_stream("mjpeg", rate=16)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        for number, (height, width) in enumerate([(48, 64), (48, 64), (64, 96)]):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.height, encoder.width, encoder.pix_fmt, encoder.time_base = (
                height,
                width,
                "yuvj420p",
                Fraction(1, 16),
            )
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, height, width), format="rgb24").reformat(
                format="yuvj420p"
            )
            frame.pts = number
            for packet in [*encoder.encode(frame), *encoder.encode()]:
                packet.stream, packet.pts, packet.dts = stream, number * 62, number * 62
                out.mux(packet)
    refused("size changes in mid-film", tmp_path / "two_sizes.mkv")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"fps": float("nan")}, "frame rate must be a number"),
        ({"fps": "fast"}, "frame rate must be a number"),
        ({"fps": 0}, "frame rate must lie above 0"),
        ({"fps": -16}, "frame rate must lie above 0"),
        ({"size": (float("nan"), 64)}, "height must be a whole number"),
        ({"size": (64, 32.5)}, "width must be a whole number"),
        ({"size": (0, 64)}, "height must be at least 1"),
        ({"size": (20_000, 20_000)}, "more than the limit"),
        ({"fit": "stretch"}, "fit must be one of"),
        ({"interpolation": "lanczos"}, "interpolation must be one of"),
    ],
)
def test_bad_settings(tmp_path, settings, sentence):
    refused(sentence, write_film(tmp_path / "film.mp4", 2), **settings)


def test_a_broken_clock_cannot_ask_for_years_of_frames(tmp_path):
    film = write_film(tmp_path / "film.mkv", 3, times=[0, 16, 16 * 3600 * 24 * 7])
    with pytest.raises(InputError, match=f"more than {MAX_FRAMES:,}"):
        VideoReader(film, fps=16)
