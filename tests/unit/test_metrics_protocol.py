"""The whole evaluation on a tiny pipeline: fixed JSON names, baselines, pictures, repeatable."""

import json

import numpy as np
import pytest
from tiny import bare_pipeline, tiny_pipeline

from scail2.cli.app import main
from scail2.data.puppet_source import PuppetSource
from scail2.data.triplet_settings import triplet_settings
from scail2.evaluation.clips import evaluation_clips
from scail2.evaluation.protocols import evaluate_pipeline
from scail2.modes import AnimationMode

TASKS = ("animation_single", "replacement_single", "animation_multi", "replacement_multi")
NAMES = {
    "character_psnr",
    "character_ssim",
    "background_psnr",
    "frame_difference_correlation",
    "limb_iou",
    "seconds_per_clip",
    "width",
    "height",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipeline")
    bare_pipeline().save_pretrained(path)
    return path


def test_the_command_writes_table_json_plot_and_sheets(folder, tmp_path, capsys):
    arguments = f"evaluate {folder} --clips 1 --frames 5 --size 32 --steps 1 --split holdout --salt mine"
    with pytest.raises(SystemExit) as stopped:
        main([*arguments.split(), "--timed", "--json", str(tmp_path / "m.json"), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 0
    result = json.loads((tmp_path / "m.json").read_text())
    for task in TASKS:
        assert set(result[task]) >= NAMES
        assert (result[task]["width"], result[task]["height"]) == (32, 32)
        assert result[task]["seconds_per_clip"] > 0
        for baseline in ("copy_reference", "copy_driving"):
            assert set(result[task]["baselines"][baseline]) >= NAMES
    assert result["settings"]["salt"] == "mine"
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"report.json", "plot.png", *(f"{task}.png" for task in TASKS)}
    printed = capsys.readouterr().out
    assert "replacement_multi" in printed
    assert "copy reference" in printed


def test_long_clips_have_seams_and_results_repeat():
    pipe = bare_pipeline()
    settings = {"clips": 1, "tasks": ["animation_single"], "frames": 13, "size": (32, 32), "num_inference_steps": 1}
    first, again = (evaluate_pipeline(pipe, "test", **settings).to_json() for _ in range(2))
    for report in (first, again):
        del report["animation_single"]["seconds_per_clip"]
    assert first == again
    assert first["animation_single"]["seam_energy"] > 0
    seams = first["animation_single"]["baselines"]["copy_driving"]["seam_energy"]
    assert seams is None  # null: baselines have no segments


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--task juggling", "unknown task"),
        ("--split tests", "split"),
        ("--size 12x", "--size"),
        ("--variant no", "recipe"),
    ],
)
def test_mistakes_are_one_sentence(folder, arguments, complaint, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(folder), "--clips", "1", "--frames", "5", *arguments.split()])
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_missing_extra_is_named():
    from scail2.cli.options import need
    from scail2.errors import InputError

    need("json", "data", "anything")
    with pytest.raises(InputError, match=r"scail2\[plot\]"):
        need("no_such_package", "plot", "the plot")


def test_a_model_with_text_is_given_the_captions():
    settings = {"clips": 1, "tasks": ["animation_single"], "frames": 5, "size": (32, 32), "num_inference_steps": 1}
    pipe = tiny_pipeline()
    prompts = []
    stream = pipe.stream
    pipe.stream = lambda *args, **kwargs: prompts.append(kwargs["prompt"]) or stream(*args, **kwargs)
    report = evaluate_pipeline(pipe, variant="paper", guidance_scale=1.0, **settings).to_json()
    assert report["animation_single"]["character_psnr"] > 0
    assert prompts[0].startswith("A flat-shaded drawing")


def test_a_variants_chances_in_training_do_not_reach_the_test():
    """The paper's recipe crops driving videos and takes references from the target: neither may leak into a measurement."""
    source = PuppetSource(split="test", frames=5, height=32, width=32)
    for task in ("animation_single", "replacement_multi"):
        plain, paper = (evaluation_clips(task, source, 4, variant=triplet_settings(name)) for name in ("nano", "paper"))
        for one, other in zip(plain, paper, strict=True):
            assert np.array_equal(one.triplet.reference, other.triplet.reference)
            assert np.array_equal(one.triplet.driving, other.triplet.driving)
            assert np.array_equal(one.truth, other.truth)


def test_pose_driven_checkpoints_are_given_pose_renders():
    settings = {"clips": 1, "tasks": ["animation_single"], "frames": 5, "size": (32, 32), "num_inference_steps": 1}
    seen = []
    evaluate_pipeline(bare_pipeline(), variant="nano+pose_driving", observe=seen.append, **settings)
    driving = seen[0].clip.triplet.driving
    assert (driving == 0).all(axis=-1).mean() > 0.5  # skeletons on black


def test_masks_that_contradict_the_mode_on_purpose_are_not_complained_about(caplog):
    settings = {"clips": 1, "tasks": ["replacement_single"], "frames": 5, "size": (32, 32), "num_inference_steps": 1}
    evaluate_pipeline(bare_pipeline(), variant="nano+no_environment_switch", **settings)
    assert caplog.messages == []


def test_one_rope_gives_the_network_the_positions_of_animation_in_both_modes():
    pipe = bare_pipeline()
    settings = {"clips": 1, "tasks": ["replacement_single"], "frames": 5, "size": (32, 32), "num_inference_steps": 1}
    seen = {}
    for variant in ("nano", "nano+one_rope", "nano"):
        modes = []
        watch = pipe.transformer.register_forward_hook(
            lambda _m, _a, kwargs, _o, modes=modes: modes.append(kwargs["mode"]), with_kwargs=True
        )
        report = evaluate_pipeline(pipe, variant=variant, **settings).to_json()
        watch.remove()
        seen.setdefault(variant, []).append((modes, report["replacement_single"]["character_psnr"]))
    (plain, again), (ablated,) = seen["nano"], seen["nano+one_rope"]
    assert plain == again
    assert plain[0] == [AnimationMode.REPLACEMENT]
    assert ablated[0] == [AnimationMode.ANIMATION]
    assert ablated[1] != plain[1]
