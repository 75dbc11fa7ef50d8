"""Studio-Bench's protocol on clips of one's own: what is found, what is rendered, what is measured, by value."""

import json

import numpy as np
import pytest
from PIL import Image
from run_material import save_model, write_video
from tiny import SIZE, footage

from scail2.cli.app import main
from scail2.errors import InputError
from scail2.evaluation.own_clips import OwnClip, find_clips, measure_film, self_driven_request
from scail2.masks import BINDING_SLOTS, paint_mask
from scail2.video import VideoReader, read_image


def make_clips(folder, *names: str) -> None:
    (folder / "masks").mkdir(parents=True)
    for number, name in enumerate(names):
        made = footage(9, seed=number)
        write_video(folder / f"{name}.mkv", made["driving_video"])
        write_video(folder / "masks" / f"{name}.mkv", paint_mask(made["driving_mask"], BINDING_SLOTS[:1], "black"))


def test_what_lies_beside_a_clip_belongs_to_it(tmp_path):
    make_clips(tmp_path, "b", "a")
    (tmp_path / "references").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "references" / "b.png")
    (tmp_path / "notes.txt").write_text("no clip")
    first, second = find_clips(tmp_path)
    assert (first.name, first.reference, first.driving_mask) == ("a", None, tmp_path / "masks" / "a.mkv")
    assert (second.name, second.reference) == ("b", tmp_path / "references" / "b.png")
    mask = Image.new("RGB", (64, 64), "blue")
    mask.save(tmp_path / "masks" / "b.webp", lossless=True)  # a still picture: the reference's
    (tmp_path / "masks" / "b.mkv").rename(tmp_path / "masks" / "b.avi")
    _, second = find_clips(tmp_path)
    assert (second.driving_mask, second.reference_mask) == (tmp_path / "masks" / "b.avi", tmp_path / "masks" / "b.webp")
    others = [Image.new("RGB", (64, 64), "white")]
    mask.save(tmp_path / "masks" / "b.webp", save_all=True, append_images=others, lossless=True)
    with pytest.raises(InputError, match=r"b\.webp and b\.avi have one name"):
        find_clips(tmp_path)
    (tmp_path / "masks" / "b.avi").unlink()
    assert find_clips(tmp_path)[1].driving_mask == tmp_path / "masks" / "b.webp"
    (tmp_path / "masks" / "c.mkv").write_bytes(b"")
    with pytest.raises(InputError, match=r"c\.mkv belongs to no clip"):
        find_clips(tmp_path)
    (tmp_path / "c.mp4").write_bytes(b"")
    (tmp_path / "c.mkv").write_bytes(b"")
    with pytest.raises(InputError, match="have one name"):
        find_clips(tmp_path)
    with pytest.raises(InputError, match="holds no clips"):
        find_clips(tmp_path / "references")


def test_a_clip_drives_itself_from_its_first_frame(tmp_path):
    make_clips(tmp_path / "clips", "a")
    (clip,) = find_clips(tmp_path / "clips")
    request = self_driven_request(clip, tmp_path, num_inference_steps=1)
    made = footage(9, seed=0)
    assert np.array_equal(read_image(request.reference), made["driving_video"][0])
    assert (request.driving, request.driving_mask) == (clip.film, (clip.driving_mask,))
    mask = read_image(request.reference_mask[0])
    assert np.array_equal(mask, paint_mask(made["driving_mask"][:, :1], BINDING_SLOTS[:1], "white")[0])
    # A pose render beside it drives; what its mask says of the clip's first frame is not known then.
    posed = OwnClip(name="a", film=clip.film, driving=clip.film, driving_mask=clip.driving_mask)
    assert not self_driven_request(posed, tmp_path).reference_mask


def test_films_are_measured_frame_by_frame_at_their_own_size(tmp_path):
    truth = footage(9)["driving_video"]
    film = truth.astype(int).clip(20, 235)
    film[4:] += 10
    clip = OwnClip(name="a", film=write_video(tmp_path / "true.mkv", truth.clip(20, 235)))
    score, _ = measure_film(write_video(tmp_path / "made.mkv", film.astype(np.uint8)), clip, None)
    assert score.frames == 9
    off = 10 * np.log10(255**2 / 100)
    assert score.measures["psnr"] == pytest.approx((4 * 60 + 5 * off) / 9, abs=1e-3)
    same, _ = measure_film(clip.film, clip, None)
    assert (same.measures["psnr"], same.measures["ssim"]) == (60, pytest.approx(1))
    shorter, _ = measure_film(write_video(tmp_path / "short.mkv", truth[:5].clip(20, 235)), clip, None)
    assert (shorter.frames, shorter.measures["psnr"]) == (5, 60)


def test_the_command_renders_once_and_writes_a_report(tmp_path, capsys):
    make_clips(tmp_path / "clips", "a", "b")
    model = save_model(tmp_path / "model")

    def evaluate(*options: object) -> int:
        with pytest.raises(SystemExit) as end:
            main([str(each) for each in ("evaluate", "--protocol", "studio-bench", tmp_path / "clips", *options)])
        return end.value.code or 0

    options = ("--model", model, "--out", tmp_path / "out", "--size", SIZE, "--steps", 1)
    assert evaluate(*options, "--json", tmp_path / "m.json") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report == json.loads((tmp_path / "m.json").read_text())
    assert report["clips"]["a"]["frames"] == 9
    with VideoReader(tmp_path / "out" / "a" / "a.mkv") as film:
        assert (len(film), film.height) == (9, SIZE)
    mean = report["studio_bench"]["psnr"]
    assert mean == pytest.approx(np.mean([report["clips"][name]["psnr"] for name in "ab"]))
    low, high = report["studio_bench"]["intervals"]["psnr"]
    assert low <= mean <= high
    films = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.mkv")}
    assert evaluate(*options) == 0
    assert films == {path: path.stat().st_mtime_ns for path in films}
    capsys.readouterr()
    assert evaluate("--out", tmp_path / "clips" / "out") == 2
    assert evaluate() == 2
    assert "--out FOLDER" in capsys.readouterr().err
    assert evaluate(*options, "--clips", 3) == 2
    assert "--clips: it belongs to --protocol puppets" in capsys.readouterr().err
