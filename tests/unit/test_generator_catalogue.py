"""Generators by name: their facts agree with what they are, settings are typed, and nothing is loaded to tell them."""

import dataclasses
import subprocess
import sys

import pytest

from scail2.cli.app import main
from scail2.errors import InputError
from scail2.synthesis.generators import facts
from scail2.synthesis.generators.catalogue import NAMES, facts_of, make_generator
from scail2.synthesis.plan import load_plan, make_bench

TOOL = {
    "python": "/usr/bin/python3",
    "folder": "/opt/mocha",
    "timeout": 60,
    "environment": [["CUDA_VISIBLE_DEVICES", "0"]],
}
SETTINGS = {
    "puppets": {"error": "mild"},
    "own": {"num_inference_steps": 6, "skeletons": "openpose"},
    "wan-animate": {"model": "weights", "dtype": "float16"},
    "wan-animate-2": {"model": "weights"},
    "wan-animate-2-distilled": {"model": "weights"},
    "mocha": {"tool": TOOL},
    "scail": {"tool": TOOL, "pose_tool": TOOL, "align": False},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_generator_is_made_from_plain_settings(name):
    if name == "puppets":
        pytest.importorskip("skia")
    generator = make_generator(name, SETTINGS[name], "plan.toml")
    assert dataclasses.replace(generator.facts, driven_by_poses=False) == dataclasses.replace(
        facts_of(name), driven_by_poses=False
    )
    assert generator.facts.driven_by_poses is (name in ("puppets", "own", "wan-animate"))  # the own one by skeletons
    assert generator.facts.cannot
    assert generator.facts.measured_on


def test_settings_arrive_as_what_they_are():
    made = make_generator("mocha", SETTINGS["mocha"], "plan.toml")
    assert made.tool.environment == (("CUDA_VISIBLE_DEVICES", "0"),)
    assert str(made.tool.folder) == "/opt/mocha"
    assert make_generator("own", SETTINGS["own"], "plan.toml").skeletons.value == "openpose"


def test_unknown_names_and_settings_are_refused():
    with pytest.raises(InputError, match="There is no generator 'kling': choose one of puppets, own, wan-animate"):
        make_generator("kling", {}, "plan.toml")
    with pytest.raises(InputError, match=r"plan\.toml.*steps"):
        make_generator("own", {"steps": 6}, "plan.toml")
    with pytest.raises(InputError, match=r"plan\.toml.*model"):
        make_generator("wan-animate", {}, "plan.toml")


def test_every_fact_is_shown(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["synthesize", "--generators"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    for each in facts.ALL:
        assert f"{each.name}: {' and '.join(each.modes)}" in shown
        assert f"  licence: {each.licence}" in shown
        assert all(f"  cannot: {line}" in shown for line in each.cannot)
    assert "cost: unknown (nobody has told this package a time)" in shown
    assert "cost: 1.9 s a frame" in shown


def test_facts_need_no_heavy_library():
    code = "import sys, scail2.synthesis.generators.catalogue; sys.exit(bool({'torch', 'skia', 'diffusers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_plan_names_tools_from_its_own_folder_and_the_measured_check(tmp_path):
    (tmp_path / "MoCha").mkdir()
    (tmp_path / "plan.toml").write_text(
        'pairs = 1\ncheck = { play = "measures", limits = { motion = 0.5 }, without = ["hand_blur"] }\n'
        "[generators.replacement]\n"
        'name = "mocha"\ntool = { python = "../envs/bin/python", folder = "MoCha", timeout = 60 }\n'
    )
    plan = load_plan(tmp_path / "plan.toml")
    tool = plan.generators.replacement["tool"]
    assert tool["folder"] == str(tmp_path / "MoCha")
    assert tool["python"] == str(tmp_path / "../envs/bin/python")
    limits = make_bench(plan, "plan.toml").check.describe()["limits"]
    assert limits["motion"] == 0.5
    assert "hand_blur" not in limits
