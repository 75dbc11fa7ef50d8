"""`scail2 ablate` at toy size: one table from a plan, nothing done twice, more ablations later, other plans refused."""

import json
import re
from pathlib import Path

import pytest

from scail2.cli.app import main
from scail2.data.ablations import ABLATION_CATALOGUE, AblationPlan
from scail2.evaluation.ablation_report import markdown
from scail2.evaluation.ablations import MEASURES, ArmClip, compare
from scail2.evaluation.comparison import Interval
from scail2.training.ablations import Experiment

ROOT = Path(__file__).parents[2]
PLAN = """
ablations = {ablations}
seeds = [0, 1]
[world]
size = 64
frames = 5
samples = 16
clips = 2
basis_clips = 4
[world.shares]
animation_single = 0.4
animation_multi = 0.3
replacement_single = 0.3
[network]
heads = {heads}
head_dim = 12
layers = 1
ffn_dim = 32
patch = 2
channels = 32
[pretraining]
steps = 2
batch_size = 2
[training]
steps = 1
batch_size = 2
[preferences]
pairs = 4
steps = 1
batch_size = 1
rank = 2
"""


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def write_plan(folder, *ablations: str, heads: int = 2):
    path = folder / "plan.toml"
    path.write_text(PLAN.format(ablations=json.dumps(ablations), heads=heads))
    return path


def test_a_plan_becomes_a_table_and_goes_on_where_it_was(tmp_path, capsys):
    out, page = tmp_path / "out", tmp_path / "science.md"
    page.write_text("# Page\n\n<!-- ablations: begin -->\nold\n<!-- ablations: end -->\n\nThe rest.\n")
    ablate = ("ablate", tmp_path / "plan.toml", "--out", out, "--workers", 1)
    write_plan(tmp_path, "preferences")
    assert run(*ablate, "--page", tmp_path / "plan.toml") == 2
    assert "has no place for the table" in capsys.readouterr().err
    assert not out.exists(), "hours are not begun for a table that has no place"
    assert run(*ablate) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    # Interrupted: one measure is missing, everything else is there.
    (out / "measures" / "dpo-1.json").unlink()
    write_plan(tmp_path, "preferences", "environment_switch")
    assert run(*ablate, "--page", page) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}

    table = json.loads((out / "table.json").read_text())
    rows = {row["ablation"]: row for row in table["results"]}
    assert list(rows) == ["environment_switch", "preferences"]
    row = rows["environment_switch"]
    assert (row["seeds"], row["measure"], row["published_sign"]) == (2, "wrong_background", 1)
    assert row["difference"]["mean"] == pytest.approx(row["without"] - row["published"])
    stored = {
        arm: [
            clip["measures"]["wrong_background"]
            for seed in (0, 1)
            for clip in json.loads((out / "measures" / f"{arm}-{seed}.json").read_text())
            if clip["task"] in ("animation_single", "replacement_single")
        ]
        for arm in ("base", "no_switch")
    }
    assert {arm: len(values) for arm, values in stored.items()} == {"base": 8, "no_switch": 8}
    assert row["without"] == pytest.approx(sum(stored["no_switch"]) / 8)
    text = page.read_text()
    assert text.startswith("# Page\n\n<!-- ablations: begin -->\n\n| ablation |")
    assert text.endswith("<!-- ablations: end -->\n\nThe rest.\n")
    assert "old" not in text
    assert Interval(**row["difference"]).told(3) in text
    assert {path.name for path in out.rglob("*.png")} == {"table.png", "environment_switch.png", "preferences.png"}

    capsys.readouterr()
    write_plan(tmp_path, "preferences", heads=3)
    assert run(*ablate) == 2
    assert "was begun with another network" in capsys.readouterr().err


def test_a_network_above_five_million_is_refused(tmp_path):
    path = write_plan(tmp_path, "binding_slots", heads=16)
    path.write_text(
        path.read_text().replace("head_dim = 12", "head_dim = 48").replace("ffn_dim = 32", "ffn_dim = 3072")
    )
    assert run("ablate", path, "--out", tmp_path / "out") == 2
    path.write_text(path.read_text().replace("binding_slots", "slots"))
    assert run("ablate", path, "--out", tmp_path / "out") == 2


def test_the_plans_that_are_shown_are_plans(tmp_path):
    shown = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "science.md").read_text(), re.DOTALL)[1]
    (tmp_path / "first-look.toml").write_text(shown)
    first, whole = (
        AblationPlan.load(path) for path in (tmp_path / "first-look.toml", ROOT / "examples/ablations.toml")
    )
    assert first.ablations == ("binding_slots", "environment_switch_one_rope", "mode_positions")
    assert {arm.name for arm in first.arms} == {"base", "one_rope", "no_slots", "no_switch_one_rope"}
    assert whole.ablations == tuple(ABLATION_CATALOGUE)
    # The sum in docs/training.md: eleven arms of pairs and three of preferences.
    assert [len([arm for arm in whole.arms if (arm.follows is None) is own]) for own in (True, False)] == [11, 3]
    page = (ROOT / "docs" / "science.md").read_text()
    assert page.index("<!-- ablations: begin -->") < page.index("<!-- ablations: end -->")


def test_the_published_table_is_what_the_kept_clips_say():
    folder, plan = ROOT / "benchmarks/results/ablations", AblationPlan.load(ROOT / "examples/ablations.toml")
    nan = float("nan")

    def measured(arm: str) -> list[list[ArmClip]]:
        kept = [json.loads((folder / "measures" / f"{arm}-{seed}.json").read_text()) for seed in plan.seeds]
        return [
            [
                ArmClip(c["name"], c["task"], {n: nan if v is None else v for n, v in c["measures"].items()})
                for c in clips
            ]
            for clips in kept
        ]

    results = [compare(each, measured(each.published.name), measured(each.without.name)) for each in plan.chosen]
    facts = json.loads((folder / "table.json").read_text())["facts"]
    assert markdown(results, facts) in (ROOT / "docs" / "science.md").read_text()
    assert json.loads((folder / "plan.json").read_text()) == json.loads(json.dumps(plan.to_json()))


@pytest.mark.parametrize("name", ABLATION_CATALOGUE)
def test_every_ablation_differs_in_one_thing_and_can_be_configured(name, tmp_path):
    ablation = ABLATION_CATALOGUE[name]
    assert ablation.measure in MEASURES
    plan = AblationPlan(ablations=(name,))
    experiment = Experiment(plan, tmp_path)
    configs = [experiment.config(arm, 3) for arm in (ablation.published, ablation.without)]
    assert [config.seed for config in configs] == [3, 3]
    assert configs[0].steps == configs[1].steps
    assert configs[0].optimizer == configs[1].optimizer
    first, second = (plan.settings(arm.changes).to_json() for arm in (ablation.published, ablation.without))
    changed = {key for key in first if first[key] != second[key]} - {"name"}
    assert len(changed) == (0 if ablation.published.follows else 1)
    assert set(plan.tasks_of(ablation.without)) == set(ablation.tasks)


def test_a_row_is_the_paired_difference_and_its_verdict():
    ablation = ABLATION_CATALOGUE["binding_slots"]

    def clips(*values: float) -> list[ArmClip]:
        found = [ArmClip(f"clip-{n}", "animation_multi", {"identity_swaps": v}) for n, v in enumerate(values)]
        return [*reversed(found), ArmClip("other", "animation_single", {"identity_swaps": 1.0})]

    nan = float("nan")
    result = compare(ablation, [clips(0.0, 0.0, nan, 0.5)] * 2, [clips(0.5, 1.0, 0.5, 0.5), clips(0.5, 1.0, 0.5, 1.0)])
    assert (result.clips, result.seeds) == (3, 2)
    assert result.published == pytest.approx(0.5 / 3)
    assert result.difference.mean == pytest.approx((0.5 + 1 + 0 + 0.5 + 1 + 0.5) / 6)
    assert result.verdict == "reproduced"
    assert compare(ablation, [clips(0.5, 1.0, 1.0)], [clips(0.0, 0.0, 0.0)]).verdict == "opposite"
    assert compare(ablation, [clips(0.5, 0.0, 1.0)], [clips(0.0, 0.5, 1.0)]).verdict == "undecided"
