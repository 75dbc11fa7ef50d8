"""The model of a run: what identifies it, wherever its parameters are kept."""

import re

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from run_material import make_request, save_lora, save_model
from safetensors.torch import load_file, save_file
from tiny import SIZE, bare_pipeline, tiny_pipeline

from scail2 import load_pipeline
from scail2.errors import InputError
from scail2.runs import RunDirectory
from scail2.runs.loaded_model import fingerprint
from scail2.runs.model import ModelHandle, read_facts
from scail2.runs.sealed import read_sealed, write_sealed
from scail2.video import VideoReader, probe


def offload(pipe):
    """What `enable_sequential_cpu_offload` does to every component, with the CPU in the accelerator's place."""
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            cpu_offload(component, torch.device("cpu"))
    assert any(parameter.is_meta for parameter in pipe.transformer.parameters())


def test_the_fingerprint_does_not_depend_on_offloading():
    pipe = tiny_pipeline()
    known = fingerprint(pipe)
    offload(pipe)
    assert fingerprint(pipe) == known
    for module in pipe.transformer.modules():
        module._hf_hook = None
    with pytest.raises(InputError, match=r"transformer\..* is not in memory: give the pipeline before offloading it"):
        fingerprint(pipe)


def test_a_run_goes_through_an_offloaded_pipeline(tmp_path):
    torch.manual_seed(0)
    pipe = bare_pipeline(native_height=SIZE, native_width=SIZE)
    offload(pipe)
    request = make_request(tmp_path, frames=9, num_inference_steps=1)
    RunDirectory.create(tmp_path / "film.run", request).execute(pipe)
    assert probe(request.output).frames == 9


@pytest.fixture
def cpu(monkeypatch):
    """Makes the processor one that multiplies bfloat16 natively, or one that does not."""
    return lambda native: monkeypatch.setattr("scail2.loading.precision.cpu_has_native_bf16", lambda: native)


def test_the_embedded_model_computes_in_bfloat16_where_the_processor_multiplies_it(cpu):
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        cpu(native)
        pipe = load_pipeline()
        assert (pipe.transformer.dtype, pipe.vae.dtype) == (dtype, torch.float32)
        assert pipe.transformer.blocks[0].attn1.to_q.weight.dtype == dtype
        assert pipe.transformer.proj_out.weight.dtype == torch.float32
    assert load_pipeline(torch_dtype=torch.bfloat16).transformer.dtype == torch.bfloat16


def small_embedded(folder, **changes):
    """One segment of the embedded model at 32x32, on the CPU."""
    return make_request(folder, frames=5, num_inference_steps=1, device="cpu", height=SIZE, width=SIZE, **changes)


def test_a_run_keeps_its_number_format_on_another_processor(tmp_path, cpu):
    cpu(True)
    request = small_embedded(tmp_path)
    run = RunDirectory.create(tmp_path / "film.run", request)
    run.execute()
    facts, frames = read_facts(run.path), VideoReader(run.path / "segments/000/frames.mkv").frames(0, 5)
    assert facts.unasked_dtype == "bfloat16"

    cpu(False)
    # As on another machine: no file is known by its place and time any more.
    write_sealed(run.path / "model.json", facts.to_json() | {"files": "elsewhere"})
    events = []
    RunDirectory.open(run.path).resume(events=events.append)
    RunDirectory.create(run.path, request).execute(events=events.append)
    assert {event.name for event in events} & {"segment_finished", "segment_skipped"} == {"segment_skipped"}
    assert read_facts(run.path).fingerprint == facts.fingerprint

    other = RunDirectory.create(tmp_path / "other.run", request.with_changes(output=tmp_path / "other.mp4"))
    other.execute()
    assert read_facts(other.path).unasked_dtype == "float32"
    there = VideoReader(other.path / "segments/000/frames.mkv").frames(0, 5)
    distance = np.abs(there.astype(int) - frames)
    assert 0 < distance.max() <= 16
    assert distance.mean() < 1


def test_runs_of_earlier_versions_keep_float32_and_named_formats_are_not_kept(tmp_path, cpu):
    cpu(True)
    request = small_embedded(tmp_path)
    asked = ModelHandle(request.with_changes(dtype="float32"), folder=tmp_path).facts(tmp_path)
    assert asked.unasked_dtype is None
    assert ModelHandle(request, folder=tmp_path).pipe.transformer.dtype == torch.bfloat16
    earlier = read_sealed(tmp_path / "model.json", dict)
    del earlier["unasked_dtype"]
    write_sealed(tmp_path / "model.json", earlier)
    assert ModelHandle(request, folder=tmp_path).pipe.transformer.dtype == torch.float32


def test_another_lora_in_the_place_of_a_run_s_own_is_named_beside_the_model(tmp_path):
    model, lora = save_model(tmp_path / "model"), save_lora(tmp_path / "adapter.safetensors")
    plain = make_request(tmp_path, frames=9, num_inference_steps=1, model=str(model), device="cpu")
    run = RunDirectory.create(tmp_path / "film.run", plain.with_changes(lora=(f"{lora}:0.5",)))
    run.execute()
    kept = lora.read_bytes()
    save_file({name: tensor * 2 for name, tensor in load_file(lora).items()}, lora)
    told = f"The model {model} or a LoRA on it ({lora}) has changed since this run began; put the old one back"
    for refused in (run.resume, lambda: run.rerender(0)):
        with pytest.raises(InputError, match=re.escape(told)):
            refused()
    lora.write_bytes(kept)
    run.resume()
    without = RunDirectory.create(tmp_path / "film.run", plain)
    without.execute()
    with torch.no_grad():
        other = load_pipeline(model)
        other.transformer.proj_out.bias[0] += 1
    with pytest.raises(InputError, match=re.escape(f"The model {model} has changed since this run began")):
        without.resume(other)
