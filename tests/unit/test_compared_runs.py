"""Runs side by side: whose frames are in which column at which moment, their numbers, and that nothing of them changes."""

import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from run_material import make_request
from tiny import SIZE, bare_pipeline

from scail2.cli.app import main
from scail2.errors import InputError
from scail2.runs import RunDirectory
from scail2.runs.comparison import ComparedRun, SideBySide, compared, differing, rows
from scail2.runs.segment_store import SegmentStore
from scail2.video import VideoReader

WIDTH = 192  # a column is never narrower than its text


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    pipe = bare_pipeline(native_height=SIZE, native_width=SIZE)
    request = make_request(folder, frames=13)
    made = [
        RunDirectory.create(folder / "first.run", request),
        RunDirectory.create(
            folder / "second.run", request.with_changes(seed=5, frames=9, output=folder / "second.mp4")
        ),
        RunDirectory.create(folder / "slow.run", request.with_changes(fps=4, frames=5, output=folder / "slow.mp4")),
    ]
    for run in made:
        run.execute(pipe)
    return [run.path for run in made]


def frames_of(run):
    parts = [VideoReader(path / "frames.mkv") for path in sorted((run / "segments").iterdir())]
    return np.concatenate([part.frames(0, len(part)) for part in parts])


def runs_verdict(path) -> dict[str, float]:
    measured = RunDirectory.open(path).status().to_json()["verdict"]["measured"]
    return {each["measure"].replace("_", " "): round(each["value"], 2) for each in measured}


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_column_shows_its_run_at_the_same_moment(runs):
    shown = SideBySide(compared(runs))
    assert (shown.fps, shown.total) == (Fraction(8), 13)
    head = shown.size[0] - SIZE
    assert shown.size[1] == 3 * WIDTH + 2 * 6
    places = [column * (WIDTH + 6) + (WIDTH - SIZE) // 2 for column in range(3)]
    first, second, slow = map(frames_of, runs)
    for number in range(13):
        picture = shown.frame(number)[head:]
        seen = [picture[:, left : left + SIZE] for left in places]
        np.testing.assert_array_equal(seen[0], first[number])
        if number < 9:
            np.testing.assert_array_equal(seen[1], second[number])
        else:  # ended: held and darkened
            np.testing.assert_array_equal(seen[1], (second[8] * 0.35).astype(np.uint8))
        if number < 10:  # half as many frames a second
            np.testing.assert_array_equal(seen[2], slow[number // 2])
    assert [len(chunk) for chunk in shown.chunks()] == [13]


def test_the_numbers_that_differ_are_told(runs):
    found = compared(runs[:2])
    assert (found[0].name, found[1].name) == ("first", "second")
    assert [each.numbers["seed"] for each in found] == [0, 5]
    assert [each.numbers["frames"] for each in found] == [13, 9]
    assert found[0].numbers["segments"] == "2 of 2"
    verdict = runs_verdict(runs[0])
    assert verdict
    assert {name: found[0].numbers[f"worst {name}"] for name in verdict} == verdict
    assert {"seed", "frames"} <= set(differing(found))
    assert not {"mode", "steps", "size", "model"} & set(differing(found))


def test_what_was_asked_for_is_among_the_numbers(runs):
    plain = compared(runs[:2])[0]
    request = plain.run.request
    for name, change in {
        "step cache": {"cache": "first-block"},
        "drift correction": {"drift_correction": "reinhard-first"},
        "number format": {"dtype": "float32"},
        "prompt": {"prompt": "a dancer"},
        "LoRAs": {"lora": ("nano-dpo:0.5",)},
        "weights": {"weights": "int8"},
    }.items():
        other = ComparedRun("other", RunDirectory(plain.run.path, request.with_changes(**change)))
        assert differing([plain, other]) == [name]
    assert plain.numbers["LoRAs"] == "none"


def test_every_other_setting_that_differs_has_a_row_of_its_own(runs):
    plain = compared(runs[:2])[0]
    request, folder = plain.run.request, plain.run.path.parent
    (folder / "b").mkdir()
    for name in ("hero.png", "b/reference.png"):
        (folder / name).write_bytes(request.reference.read_bytes())
    for option, change, told in (
        ("--fit", {"fit": "letterbox"}, ["cover", "letterbox"]),
        ("--equal-segments", {"equal_segments": True}, ["no", "yes"]),
        ("--vae-bf16", {"vae_bf16": True}, ["no", "yes"]),
        ("--negative-prompt", {"negative_prompt": "rain"}, ["", "rain"]),
        ("--fps", {"fps": 8}, [None, "8"]),
        ("--overlap", {"prev_segment_conditioning_frames": 5}, [None, "5"]),
        ("--attention", {"attention": "sdpa"}, ["auto", "sdpa"]),
        ("--reframe", {"reframe": "auto"}, ["off", "auto"]),
        ("--reference", {"reference": folder / "hero.png"}, ["reference.png", "hero.png"]),
        ("--reference", {"reference": folder / "b/reference.png"}, ["reference.png", "b/reference.png"]),
        ("--reference-mask", {"reference_mask": ()}, ["reference_mask.png", None]),
        ("--audio", {"audio": False}, ["yes", "no"]),
        ("--steps", {"num_inference_steps": None}, ["2", None]),  # what it came to is the same
    ):
        other = ComparedRun("other", RunDirectory(plain.run.path, request.with_changes(**change)))
        assert differing([plain, other]) == [option]
        assert rows([plain, other])[option] == told


@pytest.mark.parametrize(
    "change",
    [
        {"output": "x.mp4"},
        {"output": "x.webm", "codec": "vp9"},
        {"compare": True},
        {"device": "cpu"},
        {"placement": "block-offload"},
        {"drift_limit": 2.0},
    ],
)
def test_settings_that_change_nothing_in_the_frames_are_no_difference(runs, change):
    plain = compared(runs[:2])[0]
    other = RunDirectory(plain.run.path, plain.run.request.with_changes(**change))
    assert differing([plain, ComparedRun("other", other)]) == []


def test_a_segment_s_file_is_opened_once_for_all_its_frames(runs, monkeypatch):
    opened = []
    one = SegmentStore.frames
    monkeypatch.setattr(SegmentStore, "frames", lambda store, index: opened.append(index) or one(store, index))
    joined = compared(runs[:2])[0].frames
    made = np.concatenate([joined.frames(number, number + 1) for number in range(13)])
    assert opened == [0, 1]
    np.testing.assert_array_equal(made, frames_of(runs[0]))


def test_the_command_writes_film_and_picture_and_changes_no_run(runs, capsys):
    folder = runs[0].parent
    before = [tree(run) for run in runs]

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["compare", *map(str, arguments)])
        return end.value.code or 0

    assert call(*runs[:2], "-o", folder / "both.mkv") == 0
    film = VideoReader(folder / "both.mkv")
    assert (len(film), film.fps) == (13, 8)
    np.testing.assert_array_equal(film.frames(4, 5)[0], SideBySide(compared(runs[:2])).frame(4))
    assert "seed" in capsys.readouterr().out
    assert call(*runs[:2], "-o", folder / "both.mkv") == 2
    assert "both.mkv exists: add --overwrite" in capsys.readouterr().err
    assert call(*runs[:2], "-o", folder / "both.mkv", "--overwrite", "--json") == 0
    assert [each["seed"] for each in json.loads(capsys.readouterr().out)] == [0, 5]
    assert call(*runs[:2], "-o", folder / "both.png") == 0
    assert call(*runs[:2], "-o", folder / "both.png") == 0  # a sheet of its own
    sheet = np.asarray(Image.open(folder / "both.png"))
    shown = SideBySide(compared(runs[:2]))
    np.testing.assert_array_equal(sheet[: shown.size[0]], shown.frame(0))
    np.testing.assert_array_equal(sheet[-SIZE:], shown.frame(12)[-SIZE:])
    assert call(*runs[:2], "-o", runs[0] / "both.png") == 2
    request = compared(runs[:2])[1].run.request
    for taken in (request.driving, request.output):
        content = taken.read_bytes()
        assert call(*runs[:2], "-o", taken, "--overwrite") == 2
        assert "would overwrite it" in capsys.readouterr().err
        assert taken.read_bytes() == content
    assert call(runs[0]) == 2
    assert call(runs[0], "nowhere.run") == 2
    assert [tree(run) for run in runs] == before


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    with pytest.raises(InputError, match="is named twice"):
        compared([runs[0], runs[0]])
    planned = RunDirectory.create(tmp_path / "planned.run", make_request(tmp_path / "in", frames=5))
    with pytest.raises(InputError, match="has no plan yet"):
        compared([runs[0], planned.path])
