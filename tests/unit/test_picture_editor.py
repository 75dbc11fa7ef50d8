"""The pose editor through diffusers: a tiny random pipeline of the real class, run as the real one is."""

import json
from dataclasses import replace

import numpy as np
import pytest
from editor_material import tiny_editor
from endpoint_server import scripted_endpoint
from PIL import Image
from synthesis_material import answered, pair_loop, puppet_bench, puppet_roles

from scail2.cli.app import main
from scail2.data.shards import DamageReport, find_shards, read_index
from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.synthesis.bench import Job
from scail2.synthesis.events import Reason
from scail2.synthesis.generators.puppets import PuppetGenerator
from scail2.synthesis.machine import Budget
from scail2.synthesis.report import reported
from scail2.synthesis.roles.picture_editor import DiffusersEditor
from scail2.synthesis.roles.protocol import Edit, Finding, Picture, RoleError, Ruling, Task, Told
from scail2.synthesis.roles.puppets import PuppetJudge, PuppetSelector


@pytest.fixture(scope="module")
def editor():
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

    with pytest.MonkeyPatch.context() as patched:  # the published sizes of what is shown would take a CPU minutes
        patched.setattr(module, "CONDITION_IMAGE_SIZE", 64 * 64)
        patched.setattr(module, "VAE_IMAGE_SIZE", 64 * 64)
        made = DiffusersEditor(model="tiny", pixels=64 * 64, steps=2, dtype="float32")
        made.__dict__["loaded"] = tiny_editor()
        yield made


class Recorded:
    def __init__(self, pipeline):
        self.pipeline, self.options = pipeline, {}

    def __call__(self, **options):
        self.options = options
        return self.pipeline(**options)


def an_edit(task=Task.POSE) -> Edit:
    bench = puppet_bench()
    motion = bench.motions.motion(bench.motions.draw(SampleKind.ANIMATION_SINGLE, 1)).motion
    character = bench.characters.character("puppet-3")
    base = Picture(image=character.image, source=character.source)
    return Edit(task=task, base=base, character=character, motion=motion)


def test_both_pictures_and_the_words_reach_the_real_pipeline(editor):
    editor.__dict__["loaded"] = called = Recorded(editor.loaded)
    edit = an_edit()
    made = editor.edit(edit, "Raise the left arm.", 7)
    assert made.image.shape == edit.guide.shape
    assert made.image.dtype == np.uint8
    assert made.image.std() > 0
    base, guide = map(np.asarray, called.options["image"])
    assert np.array_equal(base, edit.base.image)
    assert np.array_equal(guide, edit.guide)
    assert (called.options["prompt"], called.options["height"]) == ("Raise the left arm.", 64)
    again = editor.edit(edit, "Raise the left arm.", 7).image
    assert np.array_equal(again, made.image)
    assert not np.array_equal(editor.edit(edit, "Raise the left arm.", 8).image, made.image)
    assert not np.array_equal(editor.edit(edit, "Sit down.", 7).image, made.image)
    standing = editor.edit(an_edit(Task.STAND), "Stand.", 7)
    assert len(called.options["image"]) == 1
    assert standing.source == ""
    editor.__dict__["loaded"] = called.pipeline


def test_further_arguments_are_the_pipelines_own(editor):
    plain = editor.edit(an_edit(), "Wave.", 1).image
    guided = replace(editor, arguments={"true_cfg_scale": 6.0, "negative_prompt": "blurred"})
    guided.__dict__["loaded"] = editor.loaded
    assert not np.array_equal(guided.edit(an_edit(), "Wave.", 1).image, plain)
    mistaken = replace(editor, arguments={"no_such_option": 1})
    mistaken.__dict__["loaded"] = editor.loaded
    with pytest.raises(InputError, match=r"does not take what it is given: .*no_such_option"):
        mistaken.edit(an_edit(), "Wave.", 1)


def test_what_is_no_such_pipeline_is_refused_in_a_sentence(tmp_path, editor):
    with pytest.raises(InputError, match="has no pipeline QwenImagePaint"):
        _ = replace(editor, pipeline="QwenImagePaint").loaded
    (tmp_path / "model_index.json").write_text('{"_class_name": "QwenImageEditPlusPipeline"}')
    with pytest.raises(InputError, match="cannot be loaded as a QwenImageEditPlusPipeline"):
        _ = replace(editor, model=str(tmp_path)).loaded


def test_a_picture_that_is_none_costs_an_attempt(editor):
    class Broken:
        def __call__(self, **options):
            return type("Output", (), {"images": [np.full((64, 64, 3), np.nan)]})

    broken = replace(editor)
    broken.__dict__["loaded"] = Broken()
    with pytest.raises(RoleError, match="no picture"):
        broken.edit(an_edit(), "Wave.", 1)


def test_another_pipeline_of_its_kind_is_a_matter_of_settings(editor):
    class Joy:
        def __call__(self, *, images, prompt, height, width, **rest):
            return type("Output", (), {"images": [np.asarray(images[-1].resize((width, height)), np.float32) / 255]})

    other = replace(editor, pipeline="JoyImageEditPlusPipeline", pictures="images")
    other.__dict__["loaded"] = Joy()
    edit = an_edit()
    made = other.edit(edit, "Wave.", 1).image.astype(int)
    shown = np.asarray(Image.fromarray(edit.guide).resize((64, 64)).resize((48, 48)), int)
    assert np.abs(made - shown).mean() < 8


def test_a_whole_plan_runs_with_an_endpoint_for_every_role_and_the_real_pipeline(tmp_path, editor, monkeypatch):
    """What a laboratory runs, with a server that answers by a script and a pipeline that has learnt nothing."""
    monkeypatch.setattr(DiffusersEditor, "loaded", editor.loaded)
    with scripted_endpoint(answers=answered) as server:
        (tmp_path / "lab.toml").write_text(
            f"""pairs = 4
            in_flight = 2
            shares = {{ animation_single = 2, replacement_multi = 1, pose_single = 1 }}
            motions = {{ pool = "puppets", frames = 5, height = 48, width = 48 }}
            characters = {{ pool = "puppets", height = 48, width = 48 }}
            [endpoint]
            address = "{server.address}"
            model = "eyes"
            prices = {{ prompt = 10, answer = 20 }}
            [roles.editor]
            play = "diffusers"
            model = "tiny"
            pixels = 4096
            steps = 1
            dtype = "float32"
            """
        )
        with pytest.raises(SystemExit) as ended:
            main(
                ["synthesize", "--plan", str(tmp_path / "lab.toml"), "--out", str(tmp_path / "pairs"), "--workers", "1"]
            )
    assert ended.value.code == 0
    report = json.loads((tmp_path / "pairs" / "report.json").read_text())
    assert report["accepted"] == {"animation_single": 2, "replacement_multi": 1, "pose_single": 1}
    edits = [asked for asked in server.asked if "You write instructions for a picture editor" in asked.text]
    assert report["edits"] == len(edits) == 4
    assert report["tokens"] == 110 * sum(asked.form != "json_schema" for asked in server.asked)
    assert report["cost"] == pytest.approx(report["tokens"] / 110 * (100 * 10 + 10 * 20) / 1e6)
    keys = [r.key for shard in find_shards(tmp_path / "pairs") for r in read_index(shard, DamageReport())]
    assert keys == [f"{n:07d}" for n in range(4)]


class Noise:
    """A generator whose clips nobody could mask."""

    facts = PuppetGenerator().facts

    def describe(self):
        return {}

    def generate(self, character, motion, mode, masks, seed):
        pixels = np.random.default_rng(seed).integers(0, 256, motion.clip.frames.shape, np.uint8)
        return replace(motion.clip, frames=pixels)


def test_clips_in_which_nobody_is_found_are_refused_before_they_are_judged(tmp_path):
    budget, roles = Budget(draws=1, characters=1, clips=1), puppet_roles(0.0, selector=PuppetSelector(picky=0.0))
    bench = puppet_bench(roles, generators=dict.fromkeys(AnimationMode, Noise()), budget=budget)
    loop = pair_loop(tmp_path, bench)
    state = loop.run(Job(key="0", number=0, kind=SampleKind.ANIMATION_SINGLE), attempts=1)
    assert state.cause is Reason.CLIP_CHECK
    report = reported([pair_loop(tmp_path, bench).attempts("0")])
    assert report.clips == {"refused by measures": report.clips_generated}
    assert sum(report.refusals.values()) == report.clips_generated


def test_the_loop_runs_with_it(tmp_path, editor):
    """A judge who takes what he gets first and refuses the scene once: the editor's own picture is edited again."""

    class Lenient(PuppetJudge):
        def judge_picture(self, picture, edit, seed):
            finding = Finding.ENVIRONMENT if edit.task is Task.POSE else Finding.PASS
            return Told(value=Ruling(finding=finding, reason="the wall is the wrong one"))

    loop = pair_loop(tmp_path, puppet_bench(puppet_roles(editor=editor, judge=Lenient())))
    state = loop.run(Job(key="0", number=0, kind=SampleKind.ANIMATION_SINGLE), attempts=1)
    assert state.replaced[0].picture_source == ""
    assert state.environment_edits == 1
    pictures = {path.stem for path in (tmp_path / "made").glob("*.png")}
    assert state.replaced[0].picture in pictures
    assert len(pictures) >= 2
