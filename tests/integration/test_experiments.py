"""The experiments of `recipes/` at toy size: they go through, tell the numbers they measured, and do nothing twice."""

import json

import numpy as np
import pytest
import torch
from recipe_material import Experiment, toy_model
from safetensors.torch import load_file

from scail2.data.dataset import LatentDataset
from scail2.evaluation.comparison import Interval


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    return toy_model(tmp_path_factory.mktemp("toy"))


def carried_out(name, folder, steps):
    """The experiment, every step done; a second time nothing is written again."""
    experiment = Experiment(name, folder)
    for verb, options in steps.items():
        experiment.run(verb, *options)
    done = experiment.times()
    assert len(done) > 4
    for verb in ("data", "train", "measure"):
        experiment.run(verb, *steps[verb])
    assert experiment.times() == done
    return experiment


def table_of(folder):
    """Rows of the table by (arm, against)."""
    return {(row["arm"], row["against"]): row for row in json.loads((folder / "table.json").read_text())}


def test_preferences_against_the_preferred_films_alone(model, tmp_path):
    size = ("--model", model, "--size", 64, "--frames", 5)
    steps = {
        "data": (*size, "--pairs", 4, "--workers", 1),
        "train": (
            "--model",
            model,
            "--seeds",
            1,
            "--steps",
            1,
            "--batch-size",
            2,
            "--arm",
            "sft",
            "--arm",
            "dpo_beta500",
        ),
        "measure": (*size, "--clips", 2),
        "table": (),
    }
    experiment = carried_out("preferences", tmp_path / "hands", steps)
    rows = table_of(tmp_path / "hands")
    whole, weak = "dpo_beta500", "dpo_beta500_at_0.7"
    assert list(rows) == [("sft", "start"), (whole, "start"), (weak, "start"), (whole, "sft"), (weak, "sft")]
    differences = {pair: row["hand_psnr"]["mean"] for pair, row in rows.items()}
    assert differences["sft", "start"] != 0  # a step changes something
    assert differences[whole, "sft"] == pytest.approx(differences[whole, "start"] - differences["sft", "start"])
    assert differences[weak, "start"] not in (0, differences[whole, "start"])
    # The packaged adapter changes weights as the trained one at that strength does, but for the directions left out.
    [trained] = (tmp_path / "hands" / "runs" / "dpo_beta500-0" / "adapter").glob("*.safetensors")
    before = _changes(trained)
    for rank, within in ((32, 1e-3), (20, 0.5)):
        experiment.run("package", tmp_path / "hands.safetensors", "--strength", 0.5, "--rank", rank)
        after = _changes(tmp_path / "hands.safetensors")
        assert after.keys() == before.keys()
        assert max(np.linalg.matrix_rank(each) for each in after.values()) <= rank
        off = [np.linalg.norm(after[name] - 0.5 * each) / np.linalg.norm(0.5 * each) for name, each in before.items()]
        assert max(off) < within


def _changes(adapter):
    """What an adapter adds to each weight."""
    tensors = {name: each.float().numpy() for name, each in load_file(adapter).items()}
    ups = [name for name in tensors if name.endswith("lora_up.weight")]
    return {name: tensors[name] @ tensors[name.replace("lora_up", "lora_down")] for name in ups}


def test_reverse_driving_against_forward_driving(model, tmp_path):
    size, folder = ("--model", model, "--size", 64, "--frames", 5), tmp_path / "reverse"
    steps = {
        "data": (*size, "--pairs", 4, "--workers", 1),
        "train": ("--model", model, "--seeds", 1, "--steps", 1, "--batch-size", 2),
        "measure": (*size, "--clips", 2),
        "table": (),
    }
    experiment = carried_out("reverse_driving", folder, steps)
    # What drives one arm is what the other learns to make, pair by pair.
    reverse, forward = (LatentDataset(folder / "latents" / arm) for arm in ("reverse", "forward"))
    assert len(reverse) == len(forward) == 4
    for number in range(4):
        one, other = reverse[number], forward[number]
        assert (one.key, one.kind, one.meta["forward"], other.meta["forward"]) == (other.key, other.kind, False, True)
        assert torch.equal(one.target, other.driving)
        assert torch.equal(one.driving, other.target)
        assert not torch.equal(one.target, one.driving)
    # The table tells the differences of the measures that lie beside it.
    rows = table_of(folder)
    assert list(rows) == [("reverse", "forward"), ("reverse", "start"), ("forward", "start")]
    names = {"reverse": "reverse-0", "forward": "forward-0", "start": "start"}
    clips = {arm: json.loads((folder / "measures" / f"{name}.json").read_text()) for arm, name in names.items()}
    told = (folder / "table.md").read_text()
    for (arm, against), row in rows.items():
        assert row["trainings"] == 1
        for measure in experiment.module.MEASURES:
            ours, theirs = (np.array([clip[measure] for clip in clips[each]], float) for each in (arm, against))
            assert len(ours) == 4  # two of each task
            mean = np.nanmean(ours - theirs)
            assert row[measure]["mean"] == pytest.approx(mean, abs=1e-9)
            assert row[measure]["low"] <= mean <= row[measure]["high"]
            assert Interval(**row[measure]).told(4) in told
    for other in ("forward", "start"):  # a step changes something, and the arms' steps are not the same
        assert rows["reverse", other]["character_psnr"]["mean"] != 0
