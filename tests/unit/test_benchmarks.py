"""The benchmarks run: every scenario is noted as it comes, a failure stops nothing, and the card's parts work at toy size."""

import itertools
import json
import math

import pytest

from benchmarks import __main__ as runner
from benchmarks import gpu, hardware, placements
from benchmarks.results import Figure
from scail2.budget.shapes import TransformerShape


def scenario(name, *values, fails=False):
    def measure():
        for number, value in enumerate(values):
            yield Figure(name=f"figure {number}", value=value, unit="s")
        if fails:
            raise RuntimeError("no kernel for this card")

    return runner.Scenario(name=name, about="a test", measure=measure)


def test_results_are_written_as_they_come_and_failures_are_noted(tmp_path, monkeypatch):
    scenarios = [scenario("one", 1.5), scenario("two", 2.5, 3.5, fails=True), scenario("three", 4.5)]
    monkeypatch.setattr(runner, "SCENARIOS", {each.name: each for each in scenarios})
    path = tmp_path / "results" / "machine.json"
    assert runner.main(["--results", str(path), "--shared"]) == 1
    written = json.loads(path.read_text())
    assert {name: [figure["value"] for figure in each["figures"]] for name, each in written["scenarios"].items()} == {
        "one": [1.5],
        "two": [2.5, 3.5],
        "three": [4.5],
    }
    assert written["scenarios"]["two"]["error"] == "RuntimeError: no kernel for this card"
    assert written["scenarios"]["one"]["error"] is None
    assert written["scenarios"]["one"]["shared_machine"]
    assert written["scenarios"]["one"]["command"] == "python -m benchmarks one"
    assert written["machine"]["cores"] >= 1
    # Measured again, a scenario replaces its own figures and nobody else's.
    monkeypatch.setitem(runner.SCENARIOS, "one", scenario("one", 7.0))
    assert runner.main(["one", "--results", str(path)]) == 0
    again = json.loads(path.read_text())["scenarios"]
    assert again["one"]["figures"] == [{"name": "figure 0", "value": 7.0, "unit": "s"}]
    assert again["two"] == written["scenarios"]["two"]


def test_a_name_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit):
        runner.main(["forwards"])
    assert "there is no scenario forwards; choose from start-up" in capsys.readouterr().err


def test_parts_for_a_card_work_at_toy_size_and_one_that_fails_is_noted():
    found = list(gpu.figures("toy", ("bf16", "attention no_such_kernel", "segment")))
    told = {figure.name: figure for figure in found}
    failed = [name for name in told if "failed" in name]
    assert [name.split(":")[0] for name in failed] == ["attention no_such_kernel"]
    assert [0 < each.value < math.inf for each in found if (each.name, each.unit) == ("toy bf16", "s")] == [True]
    assert {figure.unit for figure in found if figure.name == "toy segment"} == {
        "conditions s",
        "denoise s",
        "decode s",
        "GiB",
    }


def test_parts_that_the_time_does_not_reach_are_said_to_be_left_out():
    found = list(gpu.figures("toy", ("bf16", "vae"), budget_s=0))
    assert [figure.name for figure in found] == ["bf16: left out, time is over", "vae: left out, time is over"]


@pytest.mark.parametrize("part", ["fp8", "block offload", "layer offload", "vae"])
def test_each_way_to_place_the_toy_gives_its_time(part):
    import torch

    found = gpu.PARTS[part](gpu.SIZES["toy"], torch.device("cpu"))
    assert all(value >= 0 for value in found.values())
    assert max(found.values()) > 0


def test_every_placement_has_on_the_device_what_the_budget_predicts():
    """Counted over the real classes on real tensors, within a tenth; and the same result where nothing is rounded."""
    sizes = {"num_attention_heads": 4, "attention_head_dim": 64, "ffn_dim": 688, "num_layers": 6}
    context = {"text_dim": 64, "text_length": 16, "image_dim": 64, "image_length": 16}
    shape = TransformerShape(**sizes, **context)
    found = {str(each.placement): each for each in placements.measured(shape, (64, 128), 17, 64)}
    assert {name: each for name, each in found.items() if not 0.9 < each.ratio < 1.1} == {}
    assert len(found) == len(placements.PLACEMENTS)
    exact = {name for name, each in found.items() if each.off == 0}
    assert set(found) - exact <= {"resident, fp8", "resident, int8"}
    resident, offloaded = found["resident"], found["layer-offload"]
    assert offloaded.weights < 0.4 * resident.weights


def test_the_planners_figures_are_among_the_benchmarks():
    peak, seconds = itertools.islice(hardware.figures(), 2)
    assert peak.name.startswith("RTX 4060, 896x512x81, quality: block-offload")
    assert 7 < peak.value <= 8
    assert (seconds.name, seconds.unit) == (peak.name, "s predicted")
    assert {"placements", "prices", "hardware", "service-load"} <= set(runner.SCENARIOS)
