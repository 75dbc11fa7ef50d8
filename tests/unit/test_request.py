"""The request: one schema, one sentence for every value that cannot be meant."""

import inspect
import json
import math
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from scail2.cli.app import main
from scail2.cli.options import make_request, request_parameters
from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.request.animation import AnimationRequest, DriftCorrection, read_toml
from scail2.request.masks import BoxPrompt, MaskRequest, PointPrompt, Prompts, check_files
from scail2.runs.preparation import inexact
from scail2.video.rates import parse_rate

FILES = {"reference": "a.png", "driving": "b.mp4", "output": "c.mp4"}

FULL = FILES | {
    "mode": "replacement",
    "additional_references": ("d.png",),
    "additional_reference_masks": ("e.png",),
    "prompt": "a puppet dances",
    "model": "hub:owner/name",
    "lora": ("x.safetensors:0.8",),
    "dtype": "bfloat16",
    "placement": "layer-offload",
    "weights": "fp8",
    "preset": "fast",
    "num_inference_steps": 6,
    "guidance_scale": 1.0,
    "shift": 5,
    "seed": 7,
    "height": 512,
    "width": 896,
    "fit": "letterbox",
    "fps": 16,
    "frames": 45,
    "segment_frame_length": 45,
    "prev_segment_conditioning_frames": 9,
    "equal_segments": True,
    "black_out_reference": False,
    "drift_correction": "reinhard-first",
    "drift_limit": 2.5,
    "bind": ("driving:2=reference:1",),
    "reframe": "auto",
    "audio": False,
    "compare": True,
}


@pytest.mark.parametrize("settings", [FILES, FULL])
def test_json_round_trip(settings):
    request = AnimationRequest(**settings)
    assert AnimationRequest.from_json(json.dumps(request.to_json())) == request
    assert AnimationRequest.from_json(request.to_json()) == request


def test_paths_become_absolute_and_words_become_choices():
    request = AnimationRequest(**FULL)
    assert request.reference == Path.cwd() / "a.png"
    assert request.mode is AnimationMode.REPLACEMENT
    assert request.drift_correction is DriftCorrection.REINHARD_FIRST
    assert request.shift == 5.0
    assert request.compare_output == Path.cwd() / "c-compare.mp4"


def test_numpys_numbers_are_kept_as_pythons():
    request = AnimationRequest(
        **FILES | {"num_inference_steps": np.int64(2), "shift": np.float32(3), "height": np.int32(64)}
    )
    assert (request.num_inference_steps, request.shift, request.height) == (2, 3.0, 64)
    assert AnimationRequest.from_json(json.dumps(request.to_json())) == request
    with pytest.raises(InputError, match="must be a whole number"):
        AnimationRequest(**FILES | {"num_inference_steps": np.bool_(True)})


@pytest.mark.parametrize(
    ("given", "kept", "rate"),
    [
        (16, 16.0, Fraction(16)),
        ("30000/1001", "30000/1001", Fraction(30000, 1001)),
        (" 24000 / 1001 ", "24000/1001", Fraction(24000, 1001)),
        ("29.97", 29.97, Fraction(2997, 100)),
        (0.5, 0.5, Fraction(1, 2)),
    ],
)
def test_rates_are_numbers_or_fractions(given, kept, rate):
    request = AnimationRequest(**FILES | {"fps": given})
    assert request.fps == kept
    assert parse_rate(request.fps) == rate
    assert AnimationRequest.from_json(json.dumps(request.to_json())) == request


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fps": "30000/0"}, "must be a number above 0 and at most 1000, not '30000/0'."),
        ({"fps": "ntsc"}, "must be a number above 0 and at most 1000, not 'ntsc'."),
        ({"fps": "5000/1"}, "must be a number above 0 and at most 1000, not 5000.0."),
        ({"fps": "0/1"}, "must be a number above 0"),
        ({"height": math.nan}, "'height' (--height) must be a whole number from 16 to 8192, not nan."),
        ({"width": 512.0}, "'width' (--width) must be a whole number"),
        ({"width": 20_000}, "not 20000"),
        ({"height": True}, "not True"),
        ({"num_inference_steps": -1}, "'num_inference_steps' (--steps) must be a whole number from 1 to 1000, not -1."),
        ({"num_inference_steps": 0}, "not 0"),
        ({"fps": math.nan}, "'fps' (--fps) must be a number above 0"),
        ({"fps": 0}, "not 0"),
        ({"fps": math.inf}, "not inf"),
        ({"guidance_scale": "5"}, "'guidance_scale' (--guidance-scale) must be a number"),
        ({"shift": -3}, "not -3"),
        (
            {"preset": "slow"},
            "'preset' (--preset) must be one of quality, balanced, fast, distilled, nano, not 'slow'.",
        ),
        ({"preset": 3}, "not 3."),
        ({"solver": "heun"}, "'solver' (--solver) must be one of unipc, dpm++, euler, not 'heun'."),
        ({"seed": -1}, "'seed' (--seed) must be a whole number from 0"),
        ({"segment_frame_length": 80}, "must be of the form 4n+1, not 80; try 77 or 81."),
        ({"prev_segment_conditioning_frames": 4}, "try 1 or 5."),
        (
            {"segment_frame_length": 9, "prev_segment_conditioning_frames": 9},
            "'prev_segment_conditioning_frames' (--overlap) is 9, but a segment has only 9 frames.",
        ),
        ({"frames": 0}, "'frames' (--frames) must be a whole number from 1"),
        ({"drift_limit": 0}, "'drift_limit' (--drift-limit) must be a number above 0"),
        ({"drift_correction": "on"}, "must be one of off, reinhard-first, reinhard-previous, not 'on'."),
        ({"reframe": "yes"}, "must be one of off, auto"),
        ({"fit": "stretch"}, "must be one of cover, letterbox"),
        ({"dtype": "int8"}, "must be one of float32, bfloat16, float16"),
        ({"mode": "dance"}, "'animation' or 'replacement'"),
        ({"prompt": 3}, "'prompt' (--prompt) must be text, not 3."),
        ({"audio": 3}, "'audio' (--audio) must be a path"),
        ({"alpha": "yes"}, "'alpha' (--alpha) must be one of off, output, driving"),
        ({"alpha_erode": -1}, "'alpha_erode' (--alpha-erode) must be a number from 0 to 64"),
        ({"reference": None}, "'reference' (--reference) is missing."),
        ({"driving": ""}, "must be a path, not ''."),
        ({"output": "a.png"}, "is also the reference file and would overwrite it."),
        ({"output": "b.mp4"}, "is also the driving file"),
        ({"bind": 3}, "'bind' (--bind) must be a list, not 3."),
        ({"masks": "m", "driving_mask": ("n",)}, "leave out --reference-mask and --driving-mask."),
        (
            {"additional_references": ("d.png",), "additional_reference_masks": ("e", "f")},
            "1 additional references but 2 masks",
        ),
    ],
)
def test_bad_values_are_refused_with_one_sentence(changes, sentence):
    with pytest.raises(InputError) as error:
        AnimationRequest(**FILES | changes)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"driving_mask": ("film.mp4",)}, "film.mp4 is also the driving_mask file"),
        ({"reference_mask": ("mask.png", "film.mp4")}, "is also the reference_mask file"),
        ({"additional_references": ("film.mp4",)}, "is also the additional_references file"),
        (
            {"additional_references": ("d.png",), "additional_reference_masks": ("film.mp4",)},
            "is also the additional_reference_masks file",
        ),
        ({"driving": "film-compare.mp4", "compare": True}, "film-compare.mp4 is also the driving file"),
        ({"driving": "link.mp4"}, "is also the driving file"),
        ({"reference": "sub/../film.mp4"}, "is also the reference file"),
        ({"driving": "linked/film.mp4"}, "is also the driving file"),
        ({"masks": "store", "output": "store/driving_mask.mkv"}, "lies inside the masks folder"),
        ({"reference": "frames/frame_000001.png", "output": "frames"}, "lies inside the output"),
    ],
)
def test_no_output_replaces_an_input(tmp_path, monkeypatch, changes, sentence):
    monkeypatch.chdir(tmp_path)
    for folder in ("store", "frames", "sub"):
        Path(folder).mkdir()
    Path("film.mp4").write_text("precious")
    Path("link.mp4").symlink_to("film.mp4")
    Path("linked").symlink_to(tmp_path)
    with pytest.raises(InputError) as error:
        AnimationRequest(**FILES | {"output": "film.mp4"} | changes)
    assert sentence in str(error.value)
    AnimationRequest(**FILES | {"output": "film.mp4", "driving": "film-compare.mp4"})


def test_unknown_names_and_damaged_json_are_refused():
    with pytest.raises(InputError, match=r"Unknown setting 'refrence' in the request; did you mean 'reference'?"):
        AnimationRequest.from_json({"refrence": "a.png"})
    with pytest.raises(InputError, match="is not JSON"):
        AnimationRequest.from_json("{")
    with pytest.raises(InputError, match="must be a table"):
        AnimationRequest.from_json("[]")
    with pytest.raises(InputError, match="version 9"):
        AnimationRequest.from_json(AnimationRequest(**FILES).to_json() | {"version": 9})


def test_toml_paths_are_relative_to_the_file_and_changes_win(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "model").mkdir()
    file = tmp_path / "run.toml"
    file.write_text(
        'reference = "in/a.png"\ndriving = "in/b.mp4"\noutput = "c.mp4"\nmodel = "model"\n'
        'segment-frames = 45\ndriving-mask = ["in/1.mp4", "in/2.mp4"]\nseed = 3\n'
    )
    request = AnimationRequest.from_toml(file, seed=4)
    assert request.reference == tmp_path / "in" / "a.png"
    assert request.driving_mask == (tmp_path / "in" / "1.mp4", tmp_path / "in" / "2.mp4")
    assert request.model == str(tmp_path / "model")
    assert (request.segment_frame_length, request.seed) == (45, 4)


def test_lora_paths_become_absolute_and_are_relative_to_the_settings_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "loras").mkdir(parents=True)
    (tmp_path / "in" / "odd:2").touch()
    given = (
        "a.safetensors",
        "b:c.safetensors:0.5",
        "hub:owner/name",
        f"{tmp_path}/d.safetensors:-1e-1",
        "~/e.safetensors:2",
    )
    request = AnimationRequest(**FILES, lora=given)
    home = Path.home()
    assert request.lora == (
        f"{tmp_path}/a.safetensors",
        f"{tmp_path}/b:c.safetensors:0.5",
        "hub:owner/name",
        f"{tmp_path}/d.safetensors:-1e-1",
        f"{home}/e.safetensors:2",
    )
    monkeypatch.chdir("/")
    assert AnimationRequest.from_json(request.to_json()) == request
    file = tmp_path / "in" / "run.toml"
    rest = 'reference = "a.png"\ndriving = "b.mp4"\noutput = "c.mp4"\n'
    file.write_text(rest + 'lora = ["loras/x.safetensors:0.8", "odd:2", "../y.safetensors"]\n')
    folder = tmp_path / "in"
    expected = (f"{folder}/loras/x.safetensors:0.8", f"{folder}/odd:2", f"{tmp_path}/y.safetensors")
    assert AnimationRequest.from_toml(file).lora == expected
    file.write_text(rest + 'lora = "x.safetensors"\n')
    assert AnimationRequest.from_toml(file).lora == (f"{folder}/x.safetensors",)
    file.write_text(rest + "lora = 3\n")
    with pytest.raises(InputError, match="'lora'"):
        AnimationRequest.from_toml(file)


@pytest.mark.parametrize(
    "names", [("additional-reference", "additional_mask"), ("additional_references", "additional-masks")]
)
def test_settings_go_by_their_option_s_name_too(tmp_path, names):
    file = tmp_path / "run.toml"
    file.write_text(
        'reference = "a.png"\ndriving = "b.mp4"\noutput = "c.mp4"\n' + f'{names[0]} = ["d.png"]\n{names[1]} = "e.png"\n'
    )
    request = AnimationRequest.from_toml(file)
    assert request.additional_references == (tmp_path / "d.png",)
    assert request.additional_reference_masks == (tmp_path / "e.png",)
    file.write_text('additional-mask = "d.png"\nadditional-masks = ["e.png"]\n')
    with pytest.raises(
        InputError, match=r"'additional_reference_masks' is stated twice in .*, the second time as 'additional-masks'"
    ):
        read_toml(file)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("reference = ", "is not TOML"),
        ('reference = "a"\nstep = 3', "did you mean 'steps'"),
        ("height = nan", "'height' is nan"),
    ],
)
def test_bad_toml_is_refused(tmp_path, text, sentence):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=sentence):
        AnimationRequest.from_toml(file)


def test_missing_toml_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_toml(tmp_path / "none.toml")


def test_missing_files_are_named(tmp_path):
    (tmp_path / "a.png").touch()
    request = AnimationRequest(reference=tmp_path / "a.png", driving=tmp_path / "b.mp4", output=tmp_path / "c.mp4")
    with pytest.raises(InputError, match=r"'driving' \(--driving\): there is no file .*b.mp4"):
        check_files(request)
    (tmp_path / "b.mp4").touch()
    check_files(request)
    with pytest.raises(InputError, match="is a folder, not a picture"):
        check_files(request.with_changes(reference=tmp_path))
    with pytest.raises(InputError, match=r"--additional-reference\): .* is a folder, not a picture"):
        check_files(request.with_changes(additional_references=(tmp_path / "a.png", tmp_path)))


def test_an_autoencoder_in_bfloat16_is_asked_for_and_is_another_film():
    plain = AnimationRequest(**FILES, mode="animation")
    rounded = plain.with_changes(vae_bf16=True)
    assert (plain.asked_placement.vae_bf16, rounded.asked_placement.vae_bf16) == (False, True)
    assert (inexact(plain), inexact(rounded)) == ({}, {"vae": "bfloat16"})
    with pytest.raises(InputError, match="vae_bf16"):
        AnimationRequest(**FILES, mode="animation", vae_bf16="perhaps")


def test_every_setting_is_an_option_and_nothing_else():
    parameters = request_parameters()
    settings = {each.name for each in fields(AnimationRequest)} - {"mode"}
    assert {each.name for each in parameters} == settings | {"no_audio"}
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters)


def test_options_win_over_the_settings_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('reference = "a.png"\ndriving = "b.mp4"\noutput = "c.mp4"\nsteps = 3\nmode = "replacement"\n')
    request = make_request(AnimationMode.REPLACEMENT, file, {"num_inference_steps": 9, "seed": None, "bind": []})
    assert (request.num_inference_steps, request.seed, request.mode) == (9, 0, AnimationMode.REPLACEMENT)
    with pytest.raises(InputError, match="use `scail2 replace"):
        make_request(AnimationMode.ANIMATION, file, {})
    with pytest.raises(InputError, match=r"is not a \.toml settings file"):
        make_request(AnimationMode.ANIMATION, tmp_path / "a.png", {})


def test_what_a_segmenter_is_told_is_part_of_every_request(tmp_path):
    (tmp_path / "run.toml").write_text(
        'reference = "r.png"\ndriving = "d.mp4"\noutput = "o.mp4"\nsam3 = "facebook/sam3"\ntext = "dancer"\n'
        'point = ["0:1:10,20", "7:1:3,4:out"]\nbox = "0:2:1,2,3,4"\nreference-point = "1:5,6"\ncharacters = 2\n'
    )
    request = AnimationRequest.from_toml(tmp_path / "run.toml")
    driving, reference = request.prompts
    assert driving == Prompts(
        text=("dancer",),
        points=(
            PointPrompt(frame=0, character=1, x=10, y=20),
            PointPrompt(frame=7, character=1, x=3, y=4, inside=False),
        ),
        boxes=(BoxPrompt(frame=0, character=2, box=(1, 2, 3, 4)),),
        characters=2,
    )
    assert reference.points == (PointPrompt(frame=0, character=1, x=5, y=6),)
    assert AnimationRequest.from_json(request.to_json()) == request
    plain = AnimationRequest(reference="r.png", driving="d.mp4", output="o.mp4", sam3="facebook/sam3")
    assert plain.prompts == (Prompts(text=("person",)), Prompts(text=("person",)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"text": ("person",)}, "--sam3"),
        ({"sam3": "s", "points": ("one",)}, "FRAME:CHARACTER:X,Y"),
        ({"sam3": "s", "reference_boxes": ("1:1,2,3",)}, "4 numbers"),
        ({"sam3": "s", "masks": "m"}, "leave out --sam3"),
        ({"characters": 0}, "characters"),
    ],
)
def test_what_cannot_be_meant_about_masks_is_refused(settings, said):
    with pytest.raises(InputError, match=said):
        AnimationRequest(reference="r.png", driving="d.mp4", output="o.mp4", **settings)


def test_settings_of_masks_are_settings_of_a_run():
    names = {each.name: each.metadata for each in fields(AnimationRequest)}
    assert {each.name: each.metadata for each in fields(MaskRequest)}.items() <= names.items()


@pytest.mark.parametrize(
    ("earlier", "kind"), [("off", "auto"), ("model", "encoders-first"), ("layers", "layer-offload"), ("auto", "auto")]
)
def test_offload_is_an_earlier_name_of_placement(earlier, kind, tmp_path):
    request = AnimationRequest.from_json(FILES | {"mode": "animation", "offload": earlier})
    assert request.placement == kind
    (tmp_path / "a.toml").write_text(f'offload = "{earlier}"\n')
    assert AnimationRequest.from_toml(tmp_path / "a.toml", mode="animation", **FILES).placement == kind
    with pytest.raises(InputError, match=r"'placement' \(--placement\) must be one of auto, resident, encoders-first"):
        AnimationRequest(**FILES, mode="animation", placement="disk")


def test_the_command_line_still_takes_offload(capsys):
    """As it was given: the request reads its values, so what is refused is refused under the present name."""
    with pytest.raises(SystemExit) as end:
        main(["animate", "--reference", "a.png", "--driving", "b.mp4", "--output", "c.mp4", "--offload", "disk"])
    assert end.value.code == 2
    assert "'placement' (--placement) must be one of auto, resident" in capsys.readouterr().err
