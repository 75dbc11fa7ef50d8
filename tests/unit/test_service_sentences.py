"""What a service tells its clients: settings and uploads, no options, no paths."""

from pathlib import Path

import pytest

from scail2.serving.sentences import for_clients

HASH = "ab" * 32
ROOT = Path("/srv/runs")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("use --guidance-scale 1", "use 'guidance_scale' 1"),
        ("name another file with --audio, or use --no-audio", "name another file with 'audio', or use 'audio'"),
        ("'seed' (--seed) must be a whole number", "'seed' must be a whole number"),
        (f"{ROOT}/.service/uploads/{HASH}.mp4: there is no sound in it", "'audio': there is no sound in it"),
        (f"{'cd' * 32}.flac: its sound has a damaged place", "the upload: its sound has a damaged place"),
        (f"{ROOT}/0123456789abcdef/run is in use", "0123456789abcdef/run is in use"),
        ("(`scail2 masks --sam3 WEIGHTS`)", "(`scail2 masks --sam3 WEIGHTS`)"),
        ("a -- b, --nonsense", "a -- b, --nonsense"),
    ],
)
def test_options_are_settings_and_paths_are_uploads(said, told):
    assert for_clients(said, ROOT, {"audio": HASH, "reference_mask": [HASH[::-1]], "seed": 3}) == told


def test_an_upload_of_several_is_called_what_it_is():
    assert for_clients(f"{HASH}.png: too small", ROOT, {"reference_mask": [HASH]}) == "'reference_mask': too small"
