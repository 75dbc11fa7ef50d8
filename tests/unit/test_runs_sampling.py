"""What a plan says of sampling is what the run does: one resolution of preset, request, size and model."""

import json
import struct
import zlib
from pathlib import Path

import pytest
import torch
from diffusers import AdaptiveProjectedGuidance
from run_material import make_request
from tiny import SIZE, bare_pipeline, tiny_pipeline

from scail2.checkpoints.lora import FusedLoras
from scail2.errors import InputError
from scail2.pipeline import SCAIL2Pipeline
from scail2.pipeline.sampling import make_scheduler
from scail2.runs import RunDirectory
from scail2.runs.model import ModelHandle, read_facts


def pipeline(scheduler=("unipc", 3.0), **changes) -> SCAIL2Pipeline:
    torch.manual_seed(0)
    return tiny_pipeline(scheduler=make_scheduler(*scheduler), native_height=SIZE, native_width=SIZE, **changes)


def planned_and_done(folder, pipe, monkeypatch, **changes) -> tuple[dict, list]:
    """``resolved`` of plan.json, and (settings, guidance scale) of every rendered segment, then all timesteps."""
    done = []
    denoise = pipe.denoise

    def recorded(latents, conditions, settings, **arguments):
        done.append((settings, getattr(arguments["guider"], "guidance_scale", 1.0)))
        return denoise(latents, conditions, settings, **arguments)

    monkeypatch.setattr(pipe, "denoise", recorded)
    timesteps = []
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: timesteps.append(kwargs["timestep"].item()), with_kwargs=True
    )
    run = RunDirectory.create(folder / "film.run", make_request(folder, frames=9, **changes))
    run.plan(pipe=pipe)
    resolved = json.loads((run.path / "plan.json").read_text())["sampling"]["resolved"]
    assert done == []
    run.execute(pipe)
    assert json.loads((run.path / "plan.json").read_text())["sampling"]["resolved"] == resolved
    return resolved, [*done, timesteps]


@pytest.mark.parametrize(
    ("large", "changes", "expected"),
    [
        # shift, solver and first timesteps: a large picture samples the default preset at 5, a small one at 3.
        (False, {"num_inference_steps": 2}, (3.0, None, [999, 749])),
        (True, {"num_inference_steps": 2}, (5.0, None, [999, 833])),
        (True, {"num_inference_steps": 2, "shift": 2.0}, (2.0, None, [999, 666])),
        (True, {"num_inference_steps": 2, "preset": "quality"}, (5.0, "unipc", [999, 833])),
        (True, {"num_inference_steps": 2, "solver": "dpm++"}, (5.0, "dpm++", [1000, 833])),
        (True, {"num_inference_steps": 2, "solver": "unipc", "shift": 1.0}, (1.0, "unipc", [999, 499])),
    ],
)
def test_a_plan_says_what_the_run_samples_with(tmp_path, monkeypatch, large, changes, expected):
    monkeypatch.setattr("scail2.request.presets.LARGE_SHORT_SIDE", SIZE if large else SIZE + 1)
    resolved, (*segments, timesteps) = planned_and_done(tmp_path, pipeline(), monkeypatch, **changes)
    shift, solver, firsts = expected
    guidance = 1.0 if changes.get("preset") == "distilled" else 5.0
    assert resolved == {
        "steps": 2,
        "guidance_scale": guidance,
        "solver": solver,
        "shift": shift,
        "scheduler": "UniPCMultistepScheduler",
    }
    ((settings, scale),) = segments
    assert (settings.steps, settings.solver, settings.shift, scale) == (2, solver, shift, guidance)
    assert timesteps[:: 1 if guidance == 1.0 else 2] == firsts


def test_a_schedulers_own_shift_and_a_guiders_own_scale_are_planned(tmp_path, monkeypatch):
    pipe = pipeline(("dpm++", 7.0), guider=AdaptiveProjectedGuidance(guidance_scale=2.5))
    resolved, ((settings, scale), timesteps) = planned_and_done(tmp_path, pipe, monkeypatch, num_inference_steps=2)
    assert (resolved["shift"], resolved["guidance_scale"]) == (settings.shift, scale) == (7.0, 2.5)
    assert resolved["scheduler"] == "DPMSolverMultistepScheduler"
    assert timesteps[::2] == [1000, 875]


def test_a_plan_refuses_guidance_that_the_model_has_no_text_for(tmp_path):
    pipe = bare_pipeline(native_height=SIZE, native_width=SIZE)
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path, frames=9, guidance_scale=5.0))
    with pytest.raises(InputError, match="no text to guide away from: use --guidance-scale 1"):
        run.plan(pipe=pipe)


def test_facts_written_before_schedulers_were_among_them_are_read_off_the_model_again(tmp_path):
    request, pipe = make_request(tmp_path, frames=9), pipeline()
    facts = ModelHandle(request, pipe).facts(tmp_path)
    stored = json.loads((tmp_path / "model.json").read_text())
    old = {key: value for key, value in stored.items() if key != "sampling"} | {"preset": "quality"}
    (tmp_path / "model.json").write_text(json.dumps(old))
    assert read_facts(tmp_path) is None
    assert ModelHandle(request, pipe).facts(tmp_path) == facts


def with_pixel_shape(picture: Path, across: int, down: int) -> bytes:
    """A PNG's bytes with a pHYs chunk behind its first one."""
    data, body = picture.read_bytes(), b"pHYs" + struct.pack(">IIB", across, down, 0)
    return data[:33] + struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def findings_of(folder, pipe, **changes) -> dict[str, str]:
    run = RunDirectory.create(folder / "film.run", make_request(folder, frames=9, **changes))
    run.plan(pipe=pipe)
    report = json.loads((run.path / "plan.json").read_text())["preflight"]
    return {each["code"]: each["message"] for each in report["findings"] if each["severity"] == "warning"}


def test_a_plan_refuses_presets_without_their_loras_and_warns_of_prompts_that_are_not_used(tmp_path, monkeypatch):
    bare = bare_pipeline(native_height=SIZE, native_width=SIZE)
    told = (
        r"preset fast is tuned for LoRAs \(SCAIL-2 Bias-Aware DPO at 1.0, then .* with --lora \(`scail2 setup` fetches them\)"
        r".*merged .*--steps 6 --guidance-scale 1 --shift 5 --solver euler$"
    )
    with pytest.raises(InputError, match=told):
        findings_of(tmp_path / "a", bare, preset="fast")
    assert not (tmp_path / "a" / "film.run" / "masks").exists()
    found = findings_of(tmp_path / "a", bare, prompt="a puppet dances")
    assert found["prompt"].startswith("this model takes no text")
    assert "prompt" not in findings_of(tmp_path / "b", bare, preset="nano")
    found = findings_of(tmp_path / "g", bare, negative_prompt="rain")
    assert found["negative_prompt"].startswith("this model takes no text: the negative prompt")
    reads = tiny_pipeline(native_height=SIZE, native_width=SIZE)
    found = findings_of(tmp_path / "h", reads, negative_prompt="rain", guidance_scale=1.0)
    assert found["negative_prompt"].startswith("nothing is guided at a guidance scale of 1")
    assert "negative_prompt" not in findings_of(tmp_path / "i", reads, negative_prompt="rain", guidance_scale=2.0)
    assert "pixel_aspect" not in findings_of(tmp_path / "e", bare)
    (tmp_path / "wide.png").write_bytes(with_pixel_shape(tmp_path / "e" / "reference.png", 4, 3))
    shape = findings_of(tmp_path / "f", bare, reference=tmp_path / "wide.png")["pixel_aspect"]
    assert shape == "wide.png: it says that its pixels are not square (4:3): it is read as it is stored"
    remark = "mixed.safetensors: its 2 tensors for a text encoder are passed over; those for the transformer count"
    bare.transformer._scail2_fused_loras = FusedLoras(remarks=[remark])
    assert findings_of(tmp_path / "d", bare)["lora"] == remark
    monkeypatch.setattr("scail2.runs.loaded_model.has_loras", lambda transformer: True)
    findings_of(tmp_path / "c", bare, preset="fast")
