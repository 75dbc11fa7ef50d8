"""`scail2 masks` as a user types it."""

import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from scail2.cli.app import main
from scail2.errors import InputError
from scail2.files.storage import hash_file
from scail2.masks import BindingSlot
from scail2.perception.driving_video import DrivingVideo
from scail2.perception.stage import make_masks
from scail2.perception.store import MaskStore
from scail2.request.animation import AnimationRequest
from scail2.request.masks import parse_box, parse_point
from scail2.runs import RunDirectory
from scail2.video import VideoReader, VideoWriter, read_image

SIZE = (64, 96)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A reference, a driving video of another size, and masks at the files' own sizes; the working folder."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(tmp_path / "reference.png")
    mask = np.full((*SIZE, 3), 255, np.uint8)
    mask[10:60, 30:60] = BindingSlot.BLUE.rgb
    Image.fromarray(mask).save(tmp_path / "reference_mask.png")
    mask[(mask == 255).all(axis=-1)] = 0
    for name, frames in (
        ("driving.mkv", rng.integers(0, 255, (12, *SIZE, 3), dtype=np.uint8)),
        ("driving_mask.mkv", np.repeat(mask[None], 12, axis=0)),
    ):
        with VideoWriter(tmp_path / name, Fraction(16), SIZE, codec="ffv1") as writer:
            writer.write(frames)
    monkeypatch.chdir(tmp_path)
    return tmp_path


GIVEN = [
    "--reference", "reference.png", "--driving", "driving.mkv",
    "--reference-mask", "reference_mask.png", "--driving-mask", "driving_mask.mkv",
]  # fmt: skip


def run(*arguments: str) -> int:
    """Exit code of the command."""
    try:
        main(["masks", *arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_make_check_preview_edit_pack_freeze(job, capsys):
    assert run(*GIVEN, "--output", "store") == 0
    assert "driving 1 → reference 1 (blue)" in capsys.readouterr().out
    assert {"contact_sheet.png", "preflight.json", "reference.png", "tracks.json"} <= {
        p.name for p in (job / "store").iterdir()
    }
    assert run("check", "store") == 0
    assert run("preview", "store") == 0
    overlay = VideoReader(job / "store" / "preview.mp4")
    assert (len(overlay), overlay.height, overlay.width) == (12, *SIZE)
    assert (job / "store" / "preview.png").exists()
    first = contents(job / "store")
    assert run("preview", "store") == 0
    assert contents(job / "store") == first
    (job / "store" / "preview.mp4").write_bytes(b"my holiday")
    (job / "mine.png").write_bytes((job / "store" / "preview.png").read_bytes()[:-1] + b"x")
    capsys.readouterr()
    for output in ((), ("--output", "new.mp4", "--sheet", "mine.png")):
        assert run("preview", "store", *output) == 2
        assert "holds no previews of scail2" in capsys.readouterr().err
    assert (job / "store" / "preview.mp4").read_bytes() == b"my holiday"
    assert contents(job / "store") == first | {job / "store" / "preview.mp4": b"my holiday"}
    assert not (job / "new.mp4").exists()
    (job / "store" / "preview.mp4").unlink()
    for target in (("--output", "driving.mkv"), ("--sheet", "reference.png"), ("--output", "store/driving_mask.mkv")):
        before = (job / target[1]).read_bytes()
        assert run("preview", "store", *target) == 2
        assert (job / target[1]).read_bytes() == before
    assert run("edit", "store") == 0
    assert len(list((job / "store" / "driving_mask").glob("*.png"))) == 12
    assert run("pack", "store") == 0
    assert run("freeze", "store") == 0
    assert run(*GIVEN, "--output", "store") == 2
    for refused in ((*GIVEN, "--output", "store"), ("edit", "store"), ("pack", "store")):
        capsys.readouterr()
        assert run(*refused) == 2
        assert "scail2 masks unfreeze " in (told := capsys.readouterr().err)
        assert "frozen" in told
    assert run("unfreeze", "store") == 0
    assert run(*GIVEN, "--output", "store") == 0


@pytest.mark.parametrize(("mode", "plain"), [("animation", 255), ("replacement", 0)])
def test_what_is_under_a_cut_out_s_transparency_stays_hidden(job, mode, plain):
    rng = np.random.default_rng(1)
    picture = rng.integers(40, 200, (*SIZE, 4), dtype=np.uint8)  # the old scene is still there under the alpha
    picture[..., 3] = 0
    picture[10:60, 30:60, 3] = 255
    Image.fromarray(picture).save("cut.png")
    given = ["--reference", "cut.png", *GIVEN[2:4], *GIVEN[6:], "--mode", mode, "--fix-polarity"]
    assert run(*given, "--output", "store") == 0
    stored = read_image(job / "store" / "reference.png")
    assert np.array_equal(stored[10:60, 30:60], picture[10:60, 30:60, :3])
    stored[10:60, 30:60] = plain
    assert (stored == plain).all()


def test_the_report_can_be_json(job, capsys):
    assert run(*GIVEN, "--output", "store", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["facts"]["driving_characters"] == 1
    assert json.loads((job / "store" / "preflight.json").read_text()) == report


def test_the_wrong_mode_is_refused_and_can_be_fixed(job, capsys):
    assert run(*GIVEN, "--output", "store", "--mode", "replacement") == 2
    assert "white background but replacement mode needs black" in capsys.readouterr().err
    assert run(*GIVEN, "--output", "store", "--mode", "replacement", "--fix-polarity") == 0
    assert MaskStore("store").driving.frames(0, 1)[0, 0, 0].tolist() == [255, 255, 255]
    capsys.readouterr()
    assert run("check", "store", "--mode", "animation", "--json") == 0  # whose runs repaint backgrounds as they read
    assert "polarity" not in {each["code"] for each in json.loads(capsys.readouterr().out)}
    painted = np.asarray(Image.open("store/reference_mask.png")).copy()
    painted[(painted == 0).all(axis=-1)] = 255
    Image.fromarray(painted).save("store/reference_mask.png")
    for mode in ("animation", "replacement"):
        assert run("check", "store", "--mode", mode, "--json") == (2 if mode == "replacement" else 0)


def test_masks_that_cannot_be_read_are_not_final(job, capsys):
    assert run(*GIVEN, "--output", "store") == 0
    assert run("edit", "store") == 0
    frame = sorted((job / "store" / "driving_mask").glob("*.png"))[3]
    Image.new("RGBA", SIZE[::-1], (0, 0, 255, 120)).save(frame)
    assert run("freeze", "store") == 2
    assert frame.name in capsys.readouterr().err
    frame.unlink()
    assert run("freeze", "store") == 2
    assert run("edit", "store") == 0  # not frozen


def test_masks_follow_another_size_and_rate(job):
    assert run(*GIVEN, "--output", "store", "--width", "48", "--height", "32", "--fps", "8") == 0
    store = MaskStore("store")
    assert (store.total, store.height, store.width, store.fps) == (6, 32, 48, 8)
    assert (store.driving.frames(0, 1)[0] == BindingSlot.BLUE.rgb).all(axis=-1).sum() == 25 * 15


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reference", "reference.png"], "masks need"),
        ([*GIVEN, "--output", "o", "--mode", "sideways"], "sideways"),
        ([*GIVEN, "--output", "o", "--bind", "driving:5=reference:1"], "driving:5"),
        ([*GIVEN, "--output", "o", "--reframe", "perhaps"], "off, auto"),
        ([*GIVEN, "--output", "o", "--text", "person"], "--sam3"),
        ([*GIVEN[:4], "--output", "o", "--driving-mask", "reference_mask.png"], "has 1 frames but the clip has 12"),
        (["check", "nowhere"], "no tracks.json"),
        (["preview", "nowhere"], "no tracks.json"),
    ],
)
def test_mistakes_get_one_sentence_and_code_2(job, capsys, arguments, said):
    if "--driving-mask" in arguments[4:] and "--reference-mask" not in arguments:
        arguments = [*arguments, "--reference-mask", "reference_mask.png"]
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_of_other_files_is_not_written_to(job, capsys):
    (job / "mine" / "labels").mkdir(parents=True)
    for name in ("reference_mask.png", "driving_mask.mkv"):
        (job / "mine" / name).write_bytes((job / name).read_bytes())
    (job / "mine" / "labels" / "shelf.txt").write_text("a list")
    before = contents(job / "mine")
    assert run(*GIVEN, "--output", "mine") == 2
    assert "mine holds other files and no masks" in capsys.readouterr().err
    assert run(*GIVEN, "--output", "reference.png") == 2
    assert "reference.png is a file" in capsys.readouterr().err
    assert run(*GIVEN, "--output", ".") == 2
    assert contents(job / "mine") == before
    assert run(*GIVEN, "--output", "store") == 0
    (job / "mine" / "labels").rename(job / "store" / "labels")
    assert run(*GIVEN, "--output", "store") == 0
    assert (job / "store" / "labels" / "shelf.txt").read_text() == "a list"


def test_an_input_inside_the_store_is_not_replaced(job, capsys):
    assert run(*GIVEN, "--output", "store") == 0
    assert run("edit", "store") == 0
    (job / "link.png").symlink_to(job / "store" / "reference.png")
    before = contents(job / "store")
    for number, path in ((1, "store/reference.png"), (1, "link.png"), (5, "store/reference_mask.png")):
        assert run(*GIVEN[:number], path, *GIVEN[number + 1 :], "--output", "store") == 2
        assert f"{path} would be replaced by the masks written to store" in capsys.readouterr().err
    assert run(*GIVEN[:7], "store/driving_mask", "--output", "store") == 2
    assert contents(job / "store") == before


def test_painted_masks_are_set_aside_and_stay_a_store(job):
    assert run(*GIVEN, "--output", "store") == 0
    assert run("edit", "store") == 0
    frame = job / "store" / "driving_mask" / "000003.png"
    painted = np.asarray(Image.open(frame)).copy()
    painted[:4, :4] = BindingSlot.BLUE.rgb
    Image.fromarray(painted).save(frame)
    assert run(*GIVEN, "--output", "store") == 0
    assert MaskStore("store").driving_path.name == "driving_mask.mkv"
    older = MaskStore("store/superseded/1")
    assert np.array_equal(older.driving.frames(3, 4)[0], painted)
    assert (older.directory / "reference.png").exists()
    assert run(*GIVEN, "--output", "store") == 0
    assert np.array_equal(older.driving.frames(3, 4)[0], painted)
    assert [path.name for path in (job / "store" / "superseded").iterdir()] == ["1"]  # the same masks replace nothing
    assert run(*GIVEN, "--output", "store", "--width", "48", "--height", "32") == 0
    assert MaskStore("store/superseded/2").width == SIZE[1]
    assert {path.name for path in (job / "store").iterdir()} == {
        "reference_mask.png", "driving_mask.mkv", "reference.png", "contact_sheet.png", "preflight.json", "tracks.json",
        "superseded",
    }  # fmt: skip


def test_a_refusal_or_a_crash_leaves_a_folder_that_can_be_used(job, monkeypatch):
    assert run(*GIVEN, "--output", "store", "--mode", "replacement") == 2
    assert not (job / "store").exists()
    with monkeypatch.context() as patch:
        patch.setattr("scail2.perception.store.VideoWriter", None)
        with pytest.raises(TypeError):
            run(*GIVEN, "--output", "store")
    assert not (job / "store").exists()
    assert run(*GIVEN, "--output", "store") == 0
    assert MaskStore("store").total == 12


def test_points_and_boxes_are_read():
    point = parse_point("12:2:30.5,40:out")
    assert (point.frame, point.character, point.x, point.y, point.inside) == (12, 2, 30.5, 40, False)
    assert parse_point("1:5,6", still=True).inside
    assert parse_box("3:1:1,2,30,40").box == (1, 2, 30, 40)
    for text in (
        "1:2",
        "1:2:3",
        "a:1:2,3",
        "1:1:2,nan",
        "1:1:inf,3",
        "0:0:2,3",
        "0:256:2,3",
        "²:1:3,4",
        "1:1:2,3:maybe",
        "1:1:2,3:in:out",
    ):
        with pytest.raises(InputError):
            parse_point(text)
    with pytest.raises(InputError):
        parse_box("1:1:2,3,4")


def test_masks_made_from_a_folder_of_frames_are_known_again_by_a_run(job):
    (job / "frames").mkdir()
    with VideoReader(job / "driving.mkv") as reader:
        for number, frame in enumerate(reader.frames(0, 12)):
            Image.fromarray(frame).save(job / "frames" / f"{number:03d}.png")
    given = ["--reference", "reference.png", "--driving", "frames", "--fps", "16"]
    assert (
        run(*given, "--reference-mask", "reference_mask.png", "--driving-mask", "driving_mask.mkv", "--output", "m")
        == 0
    )
    request = AnimationRequest(
        reference="reference.png", driving="frames", fps=16, height=64, width=96, masks="m", output="film.mp4"
    )
    hashes = {"reference": hash_file(request.reference), "driving": hash_file(request.driving)}
    assert MaskStore(job / "m").info["sources"] == hashes
    found = make_masks(request, DrivingVideo.open(request), empty(job / "again"), sources=hashes).findings
    assert "other_source" not in {each.code for each in found}
    hashes["driving"] = hash_file(job / "driving.mkv")
    found = make_masks(request, DrivingVideo.open(request), empty(job / "other"), sources=hashes).findings
    assert [each.message for each in found if each.code == "other_source"] == [
        f"the masks in {job / 'm'} were made for another driving file than frames"
    ]


def empty(folder):
    folder.mkdir()
    return folder


def test_only_the_first_frames_are_masked_where_only_they_are_wanted(job):
    mask = VideoReader(job / "driving_mask.mkv").frames(0, 5)
    with VideoWriter(job / "short.mkv", Fraction(16), SIZE, codec="ffv1") as writer:
        writer.write(mask)
    given = ["--reference", "reference.png", "--driving", "driving.mkv", "--reference-mask", "reference_mask.png"]
    assert run(*given, "--driving-mask", "short.mkv", "--frames", "5", "--output", "m") == 0
    assert MaskStore(job / "m").total == 5


@pytest.mark.parametrize(("made", "used"), [("8", 16.0), ("16", 8.0)])
def test_masks_of_as_many_other_frames_are_refused(job, made, used):
    assert run(*GIVEN, "--output", "store", "--fps", made, "--frames", "6") == 0
    request = AnimationRequest(
        mode="animation",
        reference="reference.png",
        driving="driving.mkv",
        masks="store",
        fps=used,
        frames=6,
        output="film.mp4",
    )
    told = f"6 frames at {made} a second, but this run uses 6 of the driving video at {used:g}"
    with pytest.raises(InputError, match=told):
        RunDirectory.create(job / "film.run", request).plan()
    RunDirectory.create(job / "film.run", request.with_changes(fps=float(made))).plan()
