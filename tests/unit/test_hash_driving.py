"""What a driving video is known by: of a folder of pictures, only those that are used."""

import numpy as np
import pytest
from PIL import Image

from scail2.files.storage import hash_file
from scail2.perception.driving_video import hash_driving
from scail2.request.masks import MaskRequest


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(folder / f"frame_{number}.png")
    return folder


def request(folder, **settings):
    return MaskRequest(reference=folder / "frame_0.png", driving=folder, **settings)


def test_without_a_limit_every_picture_counts(pictures):
    assert hash_driving(request(pictures)) == hash_file(pictures)
    assert hash_driving(request(pictures, frames=12)) == hash_file(pictures)


@pytest.mark.parametrize(("settings", "used"), [({"frames": 3}, 3), ({"frames": 3, "fps": 8}, 5)])
def test_only_used_pictures_are_looked_at_in_the_order_of_their_numbers(pictures, settings, used):
    before = hash_driving(request(pictures, **settings))
    for number in range(used, 12):  # frame_10 and frame_11 come before frame_2 in the order of letters
        (pictures / f"frame_{number}.png").write_bytes(b"never opened")
    assert hash_driving(request(pictures, **settings)) == before
    Image.fromarray(np.full((16, 16, 3), 99, np.uint8)).save(pictures / f"frame_{used - 1}.png")
    assert hash_driving(request(pictures, **settings)) != before
