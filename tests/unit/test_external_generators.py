"""Other people's programs as generators: the files they read and write, their failures, and that they are ended whole."""

import dataclasses
import json
import os
import select

import numpy as np
import pytest
from stand_in_tools import MOCHA, SCAIL, SCAIL_POSE, tool

from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.synthesis.generators.mocha import MochaGenerator
from scail2.synthesis.generators.protocol import Character, Clip, GenerationError, Motion, Style
from scail2.synthesis.generators.scail1 import Scail1Generator

ANIMATION, REPLACEMENT = AnimationMode.ANIMATION, AnimationMode.REPLACEMENT
BLUE, RED = (0, 0, 255), (255, 0, 0)


def motion(height=480, width=832, frames=5):
    """A grey clip in which a darker block stands, told by its mask."""
    pixels, masks = np.full((frames, height, width, 3), 120, np.uint8), np.zeros((frames, height, width, 3), np.uint8)
    block = np.s_[:, height // 4 : height // 2, width // 4 : width // 2]
    pixels[block], masks[block] = 60, BLUE
    return Motion(name="walk", clip=Clip(frames=pixels, fps=16.0), masks=masks)


def character(height=96, width=96, caption="a red block @@ dances\nalone"):
    image, mask = np.full((height, width, 3), 230, np.uint8), np.zeros((height, width, 3), np.uint8)
    image[20:70, 30:60], mask[20:70, 30:60] = (200, 40, 30), RED
    return Character(name="Ann", style=Style.TWO_D, image=image, mask=mask, caption=caption)


def mocha(folder, script=MOCHA, **settings):
    return MochaGenerator(tool=tool(folder, {"inference_mocha.py": script}, **settings))


def scail(folder):
    configs = {"configs/video_model/Wan2.1-i2v-14Bsc-pose-xc-latent.yaml": '{"args": {"input_type": "cli"}}'}
    configs["configs/sampling/wan_pose_14Bsc_xc_txt.yaml"] = '{"args": {"output_dir": "samples/"}}'
    return Scail1Generator(
        tool=tool(folder / "SCAIL", {"sample_video.py": SCAIL, **configs}),
        pose_tool=tool(folder / "pose", {"NLFPoseExtract/process_pose.py": SCAIL_POSE}),
    )


def test_mocha_gets_film_mask_and_reference_and_gives_a_film(tmp_path):
    driving = motion()
    clip = mocha(tmp_path).generate(character(), driving, REPLACEMENT, None, 1)
    assert clip.frames.shape == driving.clip.frames.shape
    assert clip.fps == 16.0
    block = (driving.masks == BLUE).all(axis=-1)
    inner = block & np.roll(block, 4, axis=1) & np.roll(block, -4, axis=1)
    assert (
        np.abs(np.median(clip.frames[inner], axis=0) - (200, 40, 30)).max() < 12
    )  # not the white around the reference
    assert np.abs(np.median(clip.frames[~block], axis=0).astype(int) - 120).max() < 4


def test_mocha_refuses_what_it_cannot_do(tmp_path):
    generator, driving = mocha(tmp_path), motion()
    with pytest.raises(InputError, match="mocha makes replacement, not animation"):
        generator.generate(character(), driving, ANIMATION, None, 1)
    with pytest.raises(InputError, match="walk is 64x64, mocha makes 832x480"):
        generator.generate(character(), motion(64, 64), REPLACEMENT, None, 1)
    with pytest.raises(InputError, match=r"has 7 frames: mocha makes 4k\+1 of them, at most 81"):
        generator.generate(character(), motion(frames=7), REPLACEMENT, None, 1)
    late = driving.masks.copy()
    late[0] = 0
    with pytest.raises(InputError, match="is not in the first frame"):
        generator.generate(character(), driving, REPLACEMENT, late, 1)
    two = driving.masks.copy()
    two[:, :50, :50] = RED
    with pytest.raises(InputError, match="at most 1 at once, not 2 characters"):
        generator.generate(character(), driving, REPLACEMENT, two, 1)


def test_scail_runs_its_pose_stage_and_then_its_model(tmp_path):
    driving, generator = motion(512, 896), scail(tmp_path)
    checked = SCAIL.replace("poses = read", "assert prompt == 'a red block dances alone', prompt\n    poses = read")
    (tmp_path / "SCAIL" / "sample_video.py").write_text(checked)
    clip = generator.generate(character(512, 896), driving, ANIMATION, None, 7)
    expected = (255 - driving.clip.frames.astype(int) + character(512, 896).image) // 2
    assert clip.frames.shape == driving.clip.frames.shape
    assert np.abs(clip.frames.astype(int) - expected).mean() < 3


# ---- failures -------------------------------------------------------------------------------------------------------


def test_a_program_that_fails_is_quoted(tmp_path):
    generator = mocha(tmp_path, "import sys\nprint('loading')\nsys.exit('CUDA out of memory')")
    with pytest.raises(
        GenerationError, match=r"MoCha ended with exit code 1\. Its last words:\nloading\nCUDA out of memory"
    ):
        generator.generate(character(), motion(), REPLACEMENT, None, 1)


def test_a_program_that_writes_nothing_or_too_little_has_failed(tmp_path):
    with pytest.raises(GenerationError, match=r"ended well and wrote no source_replaced\.mp4"):
        mocha(tmp_path / "a", "print('done')").generate(character(), motion(), REPLACEMENT, None, 1)
    short = MOCHA.replace('"_replaced.mp4"), frames)', '"_replaced.mp4"), frames[:3])')
    with pytest.raises(GenerationError, match="MoCha made 3 frames of walk, which has 5"):
        mocha(tmp_path / "b", short).generate(character(), motion(), REPLACEMENT, None, 1)
    broken = MOCHA + "\nopen(os.path.join(args.output_dir, name + '_replaced.mp4'), 'wb').write(b'no film')"
    with pytest.raises(GenerationError, match="made a film that cannot be read"):
        mocha(tmp_path / "c", broken).generate(character(), motion(), REPLACEMENT, None, 1)


LINGERING = """
import os, subprocess, sys, time, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN) if STUBBORN else None
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
open("child", "w").write(str(child.pid))
THEN
time.sleep(300)
"""


def has_ended(pid):
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 10)[0])
    finally:
        os.close(process)


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_program_that_takes_too_long_is_ended_with_all_it_started(tmp_path, monkeypatch, stubborn):
    monkeypatch.setattr("scail2.synthesis.generators.external._PATIENCE", 0.2)
    script = LINGERING.replace("STUBBORN", str(stubborn)).replace("THEN", "print('at step 3')")
    generator = mocha(tmp_path, script, timeout=1.0)
    with pytest.raises(GenerationError, match="MoCha was given up after 1 s"):
        generator.generate(character(), motion(), REPLACEMENT, None, 1)
    assert has_ended(int((tmp_path / "child").read_text()))


def test_ctrl_c_ends_the_program_with_all_it_started(tmp_path):
    script = LINGERING.replace("STUBBORN", "False").replace("THEN", "os.kill(os.getppid(), signal.SIGINT)")
    with pytest.raises(KeyboardInterrupt):
        mocha(tmp_path, script).generate(character(), motion(), REPLACEMENT, None, 1)
    assert has_ended(int((tmp_path / "child").read_text()))


def test_a_tool_that_is_not_there_is_named(tmp_path):
    generator = mocha(tmp_path)
    absent = dataclasses.replace(generator, tool=dataclasses.replace(generator.tool, python=tmp_path / "python"))
    with pytest.raises(
        InputError, match=r"There is no interpreter .*: name the python of the program's own environment"
    ):
        absent.generate(character(), motion(), REPLACEMENT, None, 1)
    with pytest.raises(InputError, match=r"There is no .*other\.py"):
        dataclasses.replace(generator, script="other.py").describe()


def test_versions_and_scripts_are_recorded(tmp_path):
    generator = mocha(tmp_path, packages=("numpy", "surely-not-there"))
    told = generator.describe()
    assert told["versions"]["numpy"] == np.__version__
    assert told["versions"].keys() == {"python", "numpy"}
    json.dumps(told)
    (tmp_path / "inference_mocha.py").write_text(MOCHA + "# changed")
    assert generator.describe()["scripts"] != told["scripts"]
    assert os.listdir(tmp_path) == ["inference_mocha.py"]
