"""What a job takes, which placement is chosen for which card, what is refused, and what a machine learns of itself."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from run_material import make_request, save_model

from scail2.budget import calibration
from scail2.budget.calibration import Calibration
from scail2.budget.choice import plan_budget
from scail2.budget.machines import CARDS, GIB, Machine, card_rates, find_card, named_machine, this_machine
from scail2.budget.requirements import Workload, requirement
from scail2.budget.shapes import (
    AutoencoderShape,
    ImageEncoderShape,
    ModelShape,
    TextEncoderShape,
    TransformerShape,
    Weights,
)
from scail2.cli.app import main
from scail2.cli.plan import budget_rows
from scail2.errors import InputError
from scail2.files.public.choice import Layout
from scail2.request.placement import Placement, PlacementKind, WeightStorage
from scail2.request.speed import AttentionKernel, StepCache
from scail2.runs import RunDirectory
from scail2.runs.budgeting import note_outcome
from scail2.runs.sealed import read_sealed
from scail2.runs.segment_record import SegmentRecord


def stored(parameters: int) -> Weights:
    return Weights(parameters=parameters, nbytes=2 * parameters, format="bfloat16")


MODEL = ModelShape(
    transformer=TransformerShape(weights=stored(16_395_544_384)),
    autoencoder=AutoencoderShape(weights=stored(126_892_531)),
    text_encoder=TextEncoderShape(weights=stored(5_680_910_336)),
    image_encoder=ImageEncoderShape(weights=stored(630_776_321)),
)
QUALITY = Workload(size=(512, 896), segments=(81,), overlap=5, steps=40, passes=2, prompts=2)


def kinds_by_card() -> dict[str, str]:
    found = {}
    for card in CARDS:
        budget = plan_budget(MODEL, QUALITY, named_machine(card.name, None), Placement())
        assert budget.chosen is not None, card.name
        assert budget.chosen.peak <= card.memory * GIB
        found[card.name] = str(budget.chosen.placement.kind)
    return found


def test_every_card_from_8_gigabytes_gets_a_placement_and_large_ones_keep_more_there():
    kinds = kinds_by_card()
    assert kinds["RTX 4060"] == "block-offload"
    assert kinds["L40S"] == "encoders-first"
    assert kinds["H100 80 GB"] == kinds["H200 141 GB"] == "resident"


def test_setup_names_the_layouts_that_plans_find():
    for layout in Layout:
        budget = plan_budget(MODEL, QUALITY, named_machine(None, layout.need), Placement(kind=PlacementKind(layout)))
        assert budget.chosen is not None, layout


def test_a_pass_takes_an_a100_as_long_as_was_measured():
    """16.7 s a pass at 512x896x81, which public reports agree on."""
    seconds = requirement(
        MODEL, QUALITY, Placement(kind=PlacementKind.RESIDENT), named_machine("A100 80 GB", None)
    ).seconds
    assert seconds["denoise"] / 80 == pytest.approx(16.7, rel=0.05)


def test_what_does_not_fit_is_refused_with_what_would():
    budget = plan_budget(MODEL, replace(QUALITY, size=(1088, 1920)), named_machine(None, 8), Placement())
    assert budget.chosen is None
    with pytest.raises(
        InputError, match=r"does not fit a card of 8 GB .* What would fit: .*--height (\d+) --width (\d+)"
    ):
        budget.refuse()
    size = [int(word) for word in budget.advice[-2 if "segment" in budget.advice[-1] else -1].split() if word.isdigit()]
    assert (
        plan_budget(MODEL, replace(QUALITY, size=tuple(size)), named_machine(None, 8), Placement()).chosen is not None
    )
    assert budget.advice[-1] == "--segment-frames 25"
    all_taken_over = replace(QUALITY, size=(1088, 1920), overlap=25)
    assert not any(
        "segment" in each for each in plan_budget(MODEL, all_taken_over, named_machine(None, 8), Placement()).advice
    )
    resident = Placement(kind=PlacementKind.RESIDENT)
    budget = plan_budget(MODEL, QUALITY, named_machine("RTX 4090", None), resident)
    assert budget.advice[0] == "--placement auto"
    small_host = replace(named_machine("RTX 4090", None), main_memory=16 * GIB)
    assert plan_budget(MODEL, QUALITY, small_host, Placement()).chosen is None
    with pytest.raises(InputError, match=r"of 16\.0 GB main memory"):
        plan_budget(MODEL, QUALITY, small_host, Placement()).refuse()


def test_what_costs_what():
    card = named_machine("RTX 4090", None)

    def needs(placement: Placement = Placement(kind=PlacementKind.BLOCK_OFFLOAD), **changes):
        return requirement(MODEL, replace(QUALITY, **changes), placement, card)

    plain = needs()
    assert needs(steps=20).seconds["denoise"] == pytest.approx(plain.seconds["denoise"] / 2, rel=1e-3)
    assert needs(passes=1).seconds["denoise"] == pytest.approx(plain.seconds["denoise"] / 2, rel=1e-3)
    assert needs(segments=(81, 81)).seconds["decode"] == pytest.approx(2 * plain.seconds["decode"], rel=1e-3)
    assert needs(segments=(81, 81)).peak == plain.peak
    assert needs(segments=(81,) * 500).seconds["denoise"] == pytest.approx(500 * plain.seconds["denoise"], rel=1e-6)
    chunked = Placement(kind=PlacementKind.BLOCK_OFFLOAD, token_chunk=8192, vae_tiled=True)
    assert needs(chunked).device_bytes["denoise"] < plain.device_bytes["denoise"] - 2.5 * GIB
    assert needs(chunked).device_bytes["decode"] < plain.device_bytes["decode"] / 2
    ahead = Placement(kind=PlacementKind.BLOCK_OFFLOAD, prefetched_blocks=2)
    assert needs(ahead).device_bytes["denoise"] - plain.device_bytes["denoise"] == pytest.approx(0.752 * GIB, rel=0.01)
    eighth = Placement(kind=PlacementKind.ENCODERS_FIRST, storage=WeightStorage.FP8)
    full = Placement(kind=PlacementKind.ENCODERS_FIRST)
    assert needs(full).device_bytes["denoise"] - needs(eighth).device_bytes["denoise"] > 14 * GIB
    assert plain.pinned_bytes == pytest.approx(30.1 * GIB, rel=0.01)
    faster = needs(attention=AttentionKernel.FLASH3).seconds["denoise"]
    assert 0.6 < faster / plain.seconds["denoise"] < 0.85
    for storage in (WeightStorage.FP8, WeightStorage.INT8, WeightStorage.NF4):  # loaded whole, then quantised
        for kind in (PlacementKind.RESIDENT, PlacementKind.BLOCK_OFFLOAD):
            small, whole = Placement(kind=kind, storage=storage), Placement(kind=kind)
            assert needs(small).main_bytes == needs(whole).main_bytes
            assert needs(small, lora_bytes=GIB).main_bytes == needs(small).main_bytes + GIB
    fp32 = needs(itemsize=4)
    assert fp32.main_bytes > 1.9 * plain.main_bytes - 2 * GIB


def quantised(form: str, nbytes: int, *, single_file: bool = True) -> ModelShape:
    weights = Weights(parameters=16_395_544_384, nbytes=nbytes, format=form, single_file=single_file)
    return replace(MODEL, transformer=replace(MODEL.transformer, weights=weights))


def test_weights_stay_as_stored_where_that_is_the_fastest_that_fits():
    card = named_machine("RTX 4090", None)
    free = Placement(storage=WeightStorage.AUTO)
    four_bits = quantised("GGUF", 9_300_000_000)
    budget = plan_budget(four_bits, QUALITY, card, free)
    assert (budget.chosen.placement.kind, budget.chosen.placement.storage) == ("encoders-first", "stored")
    assert "stored" in str(budget.chosen.placement)
    assert budget.others[0].total_seconds >= budget.chosen.total_seconds
    # Eight bits beside the autoencoder leave room on a card of 32 GB, and unpacking costs time where everything fits.
    assert (
        plan_budget(
            quantised("float8_e4m3fn", 16_500_000_000), QUALITY, named_machine("5090", None), free
        ).chosen.placement.storage
        == "stored"
    )
    assert plan_budget(four_bits, QUALITY, named_machine("h200", None), free).chosen.placement.storage == "full"
    # What was asked for is not overridden, LoRAs need whole numbers, and only single files can stay as they are.
    for model, workload, asked in (
        (four_bits, QUALITY, Placement()),
        (four_bits, replace(QUALITY, lora_bytes=10**8), free),
        (quantised("GGUF", 9_300_000_000, single_file=False), QUALITY, free),
        (MODEL, QUALITY, free),
    ):
        assert plan_budget(model, workload, card, asked).chosen.placement.storage == "full"
    # A main memory that has no room for whole numbers: without a word about weights they stay, else that is the advice.
    small = replace(card, main_memory=14 * GIB)
    assert plan_budget(four_bits, QUALITY, small, free).chosen is not None
    assert "--weights auto" in plan_budget(four_bits, QUALITY, small, Placement()).advice


def test_what_is_not_known_of_the_time_is_said_and_caches_need_room():
    card, plain = named_machine("h200", None), Placement()
    exact = plan_budget(MODEL, QUALITY, card, plain)
    assert exact.remarks == ()
    compiled = plan_budget(MODEL, replace(QUALITY, compiled=True), named_machine("RTX 4090", None), plain)
    assert compiled.chosen is None  # what is compiled stays on the card
    assert "--no-compile" in compiled.advice
    told = dict.fromkeys(("compiling takes",))
    assert [word for word in told if word in compiled.remarks[0]] == list(told)
    skipping = plan_budget(MODEL, replace(QUALITY, cache=StepCache.FIRST_BLOCK), card, plain)
    assert skipping.chosen.total_seconds == pytest.approx(exact.chosen.total_seconds, rel=0.02)
    assert "--cache first-block skips is not known" in skipping.remarks[0]
    grown = skipping.chosen.device_bytes["denoise"] - exact.chosen.device_bytes["denoise"]
    assert 5 * GIB < grown < 8 * GIB  # six residual streams of 0.93 GiB, less what a direct pass remembers
    extrapolating = plan_budget(MODEL, replace(QUALITY, cache=StepCache.TAYLORSEER), card, plain)
    assert extrapolating.chosen is None
    assert "--cache off" in extrapolating.advice
    assert extrapolating.smallest.peak > 290 * GIB
    sage = plan_budget(MODEL, replace(QUALITY, attention=AttentionKernel.SAGE), card, plain)
    assert "attention sage is reckoned 2 times as fast as PyTorch's, as its authors state" in sage.remarks
    rows = budget_rows(skipping.to_json())
    assert rows[-1][0] == "note"


def test_cards_by_name_and_by_memory():
    assert find_card("4090").name == find_card("rtx 4090").name == "RTX 4090"
    assert named_machine("h100", 40).memory == 40 * GIB
    with pytest.raises(InputError, match="Several cards are called 'A100': choose one of A100 40 GB, A100 80 GB"):
        find_card("A100")
    with pytest.raises(InputError, match="There is no card called 'Voodoo 2'"):
        find_card("Voodoo 2")
    machine = named_machine(None, 16)
    assert (machine.memory, machine.name) == (16 * GIB, "a card of 16 GB (as fast as the RTX 4060 Ti 16 GB)")
    assert all(card.source for card in CARDS)


# ---- in a run -------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder for models of its own."""
    monkeypatch.setenv("SCAIL2_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_card_planned_for_is_the_one_that_is_named(tmp_path, monkeypatch):
    """The driver lists cards by their slots, torch by their speed and only those that it may see."""
    tool, told = tmp_path / "nvidia-smi", tmp_path / "told"
    tool.write_text(f"#!/bin/sh\ncat '{told}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    seen = [SimpleNamespace(name="NVIDIA GeForce RTX 4090", total_memory=24 * GIB)]
    seen.append(SimpleNamespace(name="NVIDIA GeForce RTX 4060", total_memory=8 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_properties", seen.__getitem__)
    told.write_text("NVIDIA GeForce RTX 4060, 8188\nNVIDIA GeForce RTX 4090, 24564\n")
    for device, number in (("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)):
        found = this_machine(device, tmp_path)
        assert (found.name, found.memory) == (seen[number].name, seen[number].total_memory)
        assert found.rates == card_rates(find_card(found.name.removeprefix("NVIDIA GeForce ")))
    told.write_text("NVIDIA A100-SXM4-40GB, 40960\n" * 2)
    assert [this_machine(each, tmp_path).memory / GIB for each in ("cuda", "cuda:1")] == [40, 40]
    tool.write_text("#!/bin/sh\nexit 9\n")  # AMD, or a driver that does not answer
    assert this_machine("cuda:1", tmp_path).memory == 8 * GIB
    assert this_machine("mps", tmp_path).memory == this_machine("mps", tmp_path).main_memory


def test_a_machine_is_measured_once_and_plans_say_so(home, tmp_path, capsys):
    torch.manual_seed(3)
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--device", "cpu", "--json"])
    assert ended.value.code == 0
    drawn = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(2), drawn)
    told = json.loads(capsys.readouterr().out)
    rates = told["rates"]["float32"]
    assert rates["measured"]
    assert 1e8 < rates["matmul"] < 1e14
    assert calibration.measured_rates(told["device"], 4).matmul == rates["matmul"]
    request = make_request(tmp_path, frames=9, model=str(save_model(tmp_path / "model")), device="cpu")
    run = RunDirectory.create(tmp_path / "film.run", request)
    run.plan()
    budget = read_sealed(run.path / "plan.json", dict)["budget"]
    assert (budget["rates"], budget["within"], budget["machine"]) == ("measured", 0.2, told["device"])
    rows = dict(budget_rows(budget))
    assert rows["time"].startswith(f"{round(budget['needs']['total_seconds'])} s ± 20%, measured here")


def test_a_plan_says_what_its_placement_means(tmp_path):
    request = make_request(tmp_path, frames=9, model=str(save_model(tmp_path / "model")), device="cpu")
    run = RunDirectory.create(tmp_path / "film.run", request)
    run.plan()
    budget = read_sealed(run.path / "plan.json", dict)["budget"]
    told = "as encoders-first (text and image encoders leave main memory before the transformer comes); "
    assert told in dict(budget_rows(budget))["needs"]
    for kind in set(PlacementKind) - {PlacementKind.AUTO}:
        needs = budget["needs"] | {"placed": f"{kind}, weights as stored"}
        assert (
            f" as {kind}, weights as stored (" in dict(budget_rows(budget | {"needs": needs, "is_cpu": False}))["needs"]
        )


def test_a_run_notes_what_it_took_beside_what_was_predicted_and_the_calibration_learns(home, tmp_path):
    slow = Machine(name="x", memory=1, rates=card_rates(CARDS[0])).rates
    request = make_request(
        tmp_path, frames=9, num_inference_steps=1, model=str(save_model(tmp_path / "m")), device="cpu"
    )
    run = RunDirectory.create(tmp_path / "film.run", request)
    run.plan()
    name = read_sealed(run.path / "plan.json", dict)["budget"]["machine"]
    # A machine that is said to be a thousandfold slower than any, so that even these few operations take their time.
    slow = replace(slow, matmul=1e5, attention=1e5, convolution=1e5, single=1e5, measured=True)
    calibration.keep(name, Calibration(rates={"float32": slow, "bfloat16": slow}))
    run.execute()
    outcome = read_sealed(run.path / "budget.json", dict)
    assert outcome["segments"] == [0]
    stage = outcome["stages"]["denoise"]
    events = [json.loads(line) for line in (run.path / "journal.jsonl").read_text().splitlines()]
    assert [each["total"] for each in events if each["event"] == "budget"] == [outcome["total"]]
    assert outcome["total"]["predicted_seconds"] >= stage["predicted_seconds"]
    assert stage["predicted_seconds"] > 1 > 0.001 < stage["measured_seconds"]
    assert outcome["memory"]["main_memory_gib"]["measured"] > 0.1
    learned = calibration.calibrations()[name].learned
    if stage["measured_seconds"] >= 0.05:
        assert learned["denoise 24"] == pytest.approx(1 / 1.5)
    else:
        assert "denoise 24" not in learned


def rendered(index: int, **timings: float) -> SegmentRecord:
    words = dict.fromkeys(("key", "previous_state", "state", "frames_sha256"), "")
    return SegmentRecord(index=index, num_frames=1, timings=timings, **words)


def test_what_is_predicted_of_some_segments_is_theirs(home, tmp_path):
    """82 frames are a segment of 81 and a tail padded to 9: a thirteenth of the time, not a half."""
    work = replace(QUALITY, segments=(81, 9))
    budget = plan_budget(MODEL, work, named_machine("h200", None), Placement())
    calibration.keep(budget.machine.name, Calibration())
    both, first = (
        budget.chosen.seconds,
        plan_budget(MODEL, QUALITY, budget.machine, budget.chosen.placement).chosen.seconds,
    )
    tail = {stage: both[stage] - first[stage] for stage in ("denoise", "decode")}
    assert both["denoise"] / tail["denoise"] == pytest.approx(12.9, abs=0.05)
    outcome = note_outcome(tmp_path, budget, MODEL, [rendered(1, denoise=tail["denoise"], decode=tail["decode"])])
    for stage, seconds in tail.items():
        assert outcome["stages"][stage]["predicted_seconds"] == pytest.approx(seconds, abs=1e-3), stage
    learned = calibration.calibrations()[budget.machine.name].learned
    assert learned == {"denoise 5120": pytest.approx(1), "decode 5120": pytest.approx(1)}
    whole = note_outcome(tmp_path, budget, MODEL, [rendered(0), rendered(1)])
    assert whole["stages"]["denoise"]["predicted_seconds"] == pytest.approx(both["denoise"], abs=1e-3)


@pytest.mark.parametrize(
    "inexact", [{"cache": StepCache.FIRST_BLOCK}, {"compiled": True}, {"attention": AttentionKernel.SAGE}]
)
def test_steps_that_are_not_exact_teach_the_exact_run_nothing(home, tmp_path, inexact):
    budget = plan_budget(MODEL, replace(QUALITY, **inexact), named_machine("h200", None), Placement())
    calibration.keep(budget.machine.name, Calibration())
    seconds = budget.chosen.seconds
    note_outcome(
        tmp_path, budget, MODEL, [rendered(0, denoise=seconds["denoise"] / 1.44, decode=seconds["decode"] * 1.44)]
    )
    assert calibration.calibrations()[budget.machine.name].learned == {"decode 5120": pytest.approx(1.2)}


def test_learning_is_bounded_and_needs_a_calibration(home):
    calibration.learn("nobody", MODEL, {"denoise": 10.0}, {"denoise": 20.0})
    assert calibration.calibrations() == {}
    calibration.keep("x", Calibration())
    calibration.learn("x", MODEL, {"denoise": 10.0, "decode": 1e-3}, {"denoise": 14.4, "decode": 5.0})
    assert calibration.calibrations()["x"].learned == {"denoise 5120": pytest.approx(1.2)}
    for _ in range(30):
        calibration.learn("x", MODEL, {"denoise": 1.0}, {"denoise": 1e6})
    assert calibration.calibrations()["x"].learned["denoise 5120"] == 5.0
    needs = requirement(MODEL, QUALITY, Placement(kind=PlacementKind.RESIDENT), named_machine("h200", None))
    right = calibration.corrected(needs, "x", MODEL)
    assert right.seconds["denoise"] == pytest.approx(5 * needs.seconds["denoise"])
    assert right.seconds["decode"] == needs.seconds["decode"]
    (home / "calibration.json").write_text("{broken")
    assert calibration.calibrations() == {}


def test_the_command_plans_for_another_card(home, tmp_path, capsys):
    request = make_request(tmp_path, frames=9, model=str(save_model(tmp_path / "model")))
    command = [
        "plan",
        "--model",
        request.model,
        "--json",
        "--reference",
        request.reference,
        "--driving",
        request.driving,
    ]
    command += ["--reference-mask", request.reference_mask[0], "--driving-mask", request.driving_mask[0]]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, command), "--card", "4090", "--memory", "16"])
    assert ended.value.code == 0
    budget = json.loads(capsys.readouterr().out)["budget"]
    assert (budget["machine"], budget["memory_gib"], budget["rates"], budget["fits"]) == (
        "RTX 4090",
        16,
        "stated",
        True,
    )
