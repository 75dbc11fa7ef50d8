"""Mutated real films and pictures are either read or refused with one sentence; nothing else may come out."""

import av
import numpy as np
import pytest
from film_samples import add_sound, numbered_frame, write_film
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from scail2.errors import InputError
from scail2.video import VideoReader, VideoWriter, read_image

FILMS = (
    "b.mp4",
    "b.mkv",
    "vp8.webm",
    "lossless.mkv",
    "fragmented.mp4",
    "sound.mp4",
    "b.avi",
    "b.ts",
    "a.gif",
    "a.webp",
    "a.png",
    "real.mp4",
)
PICTURES = ("still.png", "still.jpg", "still.webp", "still.bmp")


@pytest.fixture(scope="module")
def originals(tmp_path_factory, pytestconfig) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    write_film(folder / "b.mp4", 12, options={"bf": "2", "g": "6"})
    write_film(folder / "b.mkv", 12, options={"bf": "2", "g": "6"})
    write_film(folder / "vp8.webm", 8, codec="libvpx", options={"cpu-used": "8"})
    write_film(folder / "lossless.mkv", 4, codec="ffv1", pixels="bgr0")
    write_film(folder / "fragmented.mp4", 12, muxer={"movflags": "frag_keyframe+empty_moov"})
    write_film(folder / "b.avi", 12, codec="mpeg4", options={"bf": "2", "g": "6"})
    write_film(folder / "b.ts", 12, metadata_format="mpegts", options={"bf": "2", "g": "6"})
    add_sound(folder / "b.mp4", folder / "sound.mp4", seconds=0.5)
    first, *others = (Image.fromarray(numbered_frame(i)) for i in range(5))
    for name in ("a.gif", "a.webp", "a.png"):
        first.save(folder / name, save_all=True, append_images=others, duration=62)
    for name in PICTURES:
        first.save(folder / name)
    originals = {path.name: path.read_bytes() for path in folder.iterdir()}
    originals["real.mp4"] = (pytestconfig.rootpath / "tests/media/leather_man_pose.mp4").read_bytes()
    return originals


# A change strikes anywhere, or (half of the time) in the first kilobyte, where the headers are.
changes = st.lists(
    st.tuples(
        st.sampled_from(("overwrite", "delete", "insert")),
        st.one_of(st.floats(0, 1, exclude_max=True), st.integers(0, 1000)),
        st.one_of(
            st.binary(min_size=1, max_size=16),
            st.sampled_from((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1")),
        ),
    ),
    min_size=1,
    max_size=12,
)
cut = st.one_of(st.just(1.0), st.floats(0, 1))


def mutate(content: bytes, steps, share: float) -> bytes:
    changed = bytearray(content)
    for action, place, value in steps:
        at = int(place * len(changed)) if isinstance(place, float) else min(place, max(0, len(changed) - 1))
        if action == "overwrite":
            changed[at : at + len(value)] = value
        elif action == "insert":
            changed[at:at] = value
        else:
            del changed[at : at + len(value)]
    return bytes(changed[: int(len(changed) * share)])


def check_sentence(error: InputError, path) -> None:
    assert len(str(error).splitlines()) == 1
    assert str(path) in str(error)


@pytest.fixture(autouse=True)
def _quiet():
    level = av.logging.get_level()
    av.logging.set_level(None)
    yield
    av.logging.set_level(level)


bounded = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@bounded
@given(name=st.sampled_from(FILMS), steps=changes, share=cut, fps=st.sampled_from((None, 7)))
def test_mutated_films(originals, tmp_path, name, steps, share, fps):
    path = tmp_path / name
    path.write_bytes(mutate(originals[name], steps, share))
    try:
        with VideoReader(path, fps=fps, size=(32, 40)) as reader:
            shown = min(len(reader), 30)
            assert reader.frames(0, shown).shape == (shown, 32, 40, 3)
            assert reader.frames(len(reader) - 1, len(reader)).dtype == np.uint8
        if name == "sound.mp4":
            with VideoWriter(tmp_path / "out.mkv", 16, (16, 16), "ffv1", path) as writer:
                writer.write(np.zeros((8, 16, 16, 3), np.uint8))
    except InputError as error:
        check_sentence(error, path)
    assert not list(tmp_path.glob(".*"))  # no unfinished output is left


@bounded
@given(name=st.sampled_from(PICTURES), steps=changes, share=cut)
def test_mutated_pictures(originals, tmp_path, name, steps, share):
    path = tmp_path / name
    path.write_bytes(mutate(originals[name], steps, share))
    try:
        picture = read_image(path)
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[-1] in (3, 4)
    except InputError as error:
        check_sentence(error, path)
