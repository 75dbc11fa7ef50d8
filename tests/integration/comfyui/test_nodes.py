"""The ComfyUI nodes: schemas and execution, in a real installation where ``COMFYUI_PATH`` names one, else on a stand-in."""

import asyncio
import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from run_material import make_material, save_model

from scail2 import InputError, RunDirectory, VideoReader, read_image

INTEGRATION = Path(__file__).parents[3] / "integrations" / "comfyui"
HOST = os.environ.get("COMFYUI_PATH") or str(Path(__file__).parent / "standin")


@pytest.fixture(scope="module")
def nodes():
    """The module of the nodes, with ComfyUI's interface importable; the path is as it was afterwards."""
    before = list(sys.path)
    sys.path[:0] = [HOST, str(INTEGRATION)]
    try:
        yield importlib.import_module("scail2_comfyui.nodes")
    finally:
        sys.path[:] = before
        for name in [each for each in sys.modules if each.split(".")[0] in ("comfy", "comfy_api", "folder_paths")]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def job_inputs(nodes, tmp_path, monkeypatch, model):
    """Inputs of the masks node over small material, with ComfyUI's output folder in a temporary place."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    material = make_material(tmp_path / "material", frames=19)

    def frames(path):
        reader = VideoReader(path)
        return torch.from_numpy(reader.frames(0, len(reader))).float() / 255

    def picture(path):
        return torch.from_numpy(read_image(path)[None, ..., :3].copy()).float() / 255

    return {
        "model": nodes.Scail2LoadModel.execute(model=str(model), dtype="float32", lora="").args[0],
        "reference": picture(material["reference"]),
        "driving": frames(material["driving"]),
        "fps": 8.0,
        "mode": "animation",
        "seed": 3,
        "name": "film",
        "settings": '{"num_inference_steps": 2}',
        "reference_mask": picture(material["reference_mask"][0]),
        "driving_mask": frames(material["driving_mask"][0]),
    }


def test_every_schema_names_the_arguments_of_its_execution(nodes):
    for node in nodes.NODES:
        schema = node.GET_SCHEMA()
        code = node.execute.__func__.__code__
        assert [each.id for each in schema.inputs] == list(code.co_varnames[1 : code.co_argcount])
        assert schema.category == "SCAIL-2"


def test_the_extension_lists_all_nodes(nodes):
    package = importlib.import_module("scail2_comfyui")
    extension = asyncio.run(package.comfy_entrypoint())
    assert asyncio.run(extension.get_node_list()) == list(nodes.NODES)


def test_masks_plan_and_frames_of_a_run(nodes, job_inputs):
    job, still, moving = nodes.Scail2Masks.execute(**job_inputs).args
    assert torch.equal(still, job_inputs["reference_mask"])
    assert torch.equal(moving, job_inputs["driving_mask"])
    plan = json.loads(nodes.Scail2Plan.execute(job=job).args[0])
    assert (plan["frames"], plan["mode"]) == (19, "animation")
    frames, run, film = nodes.Scail2Render.execute(job=job, rerender=-1, rerender_seed=-1).args
    stored = VideoReader(film).frames(0, 19)
    assert np.array_equal((frames * 255).round().to(torch.uint8).numpy(), stored)
    assert RunDirectory.open(run).status().state == "finished"


def test_the_same_inputs_render_nothing_again_and_one_segment_can(nodes, job_inputs):
    job = nodes.Scail2Masks.execute(**job_inputs).args[0]
    first = nodes.Scail2Render.execute(job=job, rerender=-1, rerender_seed=-1).args[0]
    again = nodes.Scail2Masks.execute(**job_inputs).args[0]
    assert again == job
    told = RunDirectory.open(job.run).journal()
    count = len([each for each in told.entries() if each["event"] == "segment_finished"])
    second = nodes.Scail2Render.execute(job=again, rerender=-1, rerender_seed=-1).args[0]
    assert torch.equal(first, second)
    assert len([each for each in told.entries() if each["event"] == "segment_finished"]) == count
    third = nodes.Scail2Render.execute(job=again, rerender=1, rerender_seed=9).args[0]
    start = VideoReader(job.run / "segments" / "000" / "frames.mkv")
    assert torch.equal(third[: len(start)], first[: len(start)])
    assert not torch.equal(third[len(start) :], first[len(start) :])


def test_the_stop_button_stops_and_keeps(nodes, job_inputs, monkeypatch):
    from comfy import model_management

    job = nodes.Scail2Masks.execute(**job_inputs).args[0]
    monkeypatch.setattr(model_management, "stopped", True, raising=False)
    with pytest.raises(model_management.InterruptProcessingException):
        nodes.Scail2Render.execute(job=job, rerender=-1, rerender_seed=-1)
    monkeypatch.setattr(model_management, "stopped", False, raising=False)
    assert len(nodes.Scail2Render.execute(job=job, rerender=-1, rerender_seed=-1).args[0]) == 19


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mode": "dance"}, "mode is one of animation, replacement"),
        ({"name": "../x"}, "letters, digits"),
        ({"fps": 0.0}, "between 1 and 240"),
        ({"settings": "["}, "JSON object"),
        ({"settings": '{"seed": 4}'}, "no input for"),
        ({"settings": '{"output": "/etc/x.mkv"}'}, "no input for"),
        ({"settings": '{"codec": "h264"}'}, "lossless"),
        ({"reference": torch.zeros(3, 8, 8)}, "reference must be an IMAGE batch"),
        ({"driving": None}, "driving must be an IMAGE batch"),
    ],
)
def test_unchecked_values_are_refused_by_the_node(nodes, job_inputs, changes, told):
    with pytest.raises(InputError, match=told):
        nodes.Scail2Masks.execute(**job_inputs | changes)


def test_decimal_rates_mean_the_fractions_of_television(nodes):
    images = importlib.import_module("scail2_comfyui.images")
    rates = {1.0: "1", 2.0: "2", 16.0: "16", 23.976: "24000/1001", 29.97: "30000/1001", 12.5: "25/2"}
    assert {fps: str(images.rate(fps)) for fps in rates} == rates
    for strange in (torch.full((1, 8, 8, 3), 255.0), torch.full((1, 8, 8, 3), 200, dtype=torch.uint8),
                    torch.full((1, 8, 8, 3), -1.0), torch.full((1, 8, 8, 3), float("nan"))):  # fmt: skip
        with pytest.raises(images.InputError, match=r"the picture holds values outside \[0, 1\]"):
            images.as_bytes(strange, "the picture")
    with pytest.raises(images.InputError, match="the picture is wholly transparent"):
        images.as_bytes(torch.cat([torch.ones(1, 8, 8, 3), torch.zeros(1, 8, 8, 1)], dim=-1), "the picture")
