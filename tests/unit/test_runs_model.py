"""The model of a run: what identifies it, wherever its parameters are kept."""

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from run_material import make_request, save_model
from tiny import SIZE, bare_pipeline, tiny_pipeline

from scail2.errors import InputError
from scail2.runs import RunDirectory
from scail2.runs.model import fingerprint, read_facts
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


def test_a_run_with_offloaded_layers_makes_the_same_film(tmp_path):
    model = save_model(tmp_path / "model")
    films, facts = [], []
    for offload_to in ("off", "layers"):
        request = make_request(tmp_path, frames=9, num_inference_steps=1, model=str(model), device="cpu")
        request = request.with_changes(offload=offload_to, output=tmp_path / f"{offload_to}.mkv")
        run = RunDirectory.create(tmp_path / f"{offload_to}.run", request)
        run.execute()
        films.append(VideoReader(request.output).frames(0, 9))
        facts.append(read_facts(run.path).fingerprint)
    assert np.array_equal(*films)
    assert facts[0] == facts[1]


def test_offloading_whole_models_without_a_gpu_is_refused(tmp_path):
    request = make_request(tmp_path, frames=9, model=str(save_model(tmp_path / "model")), device="cpu")
    run = RunDirectory.create(tmp_path / "film.run", request.with_changes(offload="model"))
    with pytest.raises(InputError, match="takes a GPU"):
        run.execute()
