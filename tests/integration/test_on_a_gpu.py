"""What runs on a GPU runs where it should: on one that is pretended, which refuses what a real one refuses."""

import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ClassifierFreeGuidance
from pretended_gpu import pretended_gpu
from tiny import bare_pipeline, footage, tiny_pipeline

from scail2.cli.app import main
from scail2.loading.placing import place_pipeline
from scail2.request.placement import Placement, PlacementKind, WeightStorage
from scail2.video import VideoReader, VideoWriter

RESIDENT = Placement(kind=PlacementKind.RESIDENT)


@pytest.fixture
def gpu(tmp_path_factory):
    with pretended_gpu(tmp_path_factory.mktemp("guard")) as device:
        yield device


def frames(pipe, **options) -> torch.Tensor:
    options = {"mode": "animation", "num_inference_steps": 2, "guidance_scale": 1.0} | options
    if pipe.text_encoder is not None:
        options = {"prompt": "a puppet dances"} | options
    return pipe(**footage(13), generator=torch.Generator().manual_seed(0), output_type="pt", **options).frames


def test_the_pretended_gpu_refuses_what_a_real_one_refuses(gpu):
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    assert (there + 1).device == gpu
    assert (there + torch.tensor(1.0)).sum().item() == 6
    assert (there[torch.tensor([0, 2])] * 2).cpu().tolist() == [2, 2]
    with pytest.raises(RuntimeError, match="on cuda:0 and on the CPU"):
        there + here
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()
    with pytest.raises(RuntimeError, match="on cuda:0 and on the CPU"):
        torch.nn.Linear(3, 2)(there)
    assert torch.nn.Linear(3, 2).to("cuda")(there).device == gpu
    here.copy_(there * 5)
    assert here.tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    ("changes", "near"),
    [
        ({}, 1e-5),
        ({"kind": PlacementKind.BLOCK_OFFLOAD}, 1e-5),
        ({"kind": PlacementKind.BLOCK_OFFLOAD, "pinned": False}, 1e-5),
        ({"kind": PlacementKind.BLOCK_OFFLOAD, "prefetched_blocks": 0}, 1e-5),
        ({"kind": PlacementKind.LAYER_OFFLOAD}, 1e-5),
        ({"token_chunk": 7, "vae_tiled": True}, 1e-5),
        ({"vae_bf16": True}, 0.02),
        ({"kind": PlacementKind.BLOCK_OFFLOAD, "storage": WeightStorage.FP8}, 0.05),
    ],
)
def test_every_placement_gives_the_frames_of_the_cpu(changes, near, gpu):
    expected = frames(bare_pipeline())
    found = frames(place_pipeline(bare_pipeline(), gpu, replace(RESIDENT, **changes)))
    torch.testing.assert_close(found.cpu(), expected, atol=near, rtol=0)


@pytest.mark.parametrize(("mode", "solver"), [("animation", "unipc"), ("replacement", "dpm++"), ("animation", "euler")])
def test_text_pictures_guidance_and_solvers(mode, solver, gpu):
    def pipe():
        return tiny_pipeline(guider=ClassifierFreeGuidance(guidance_scale=4.0))

    options = {"mode": mode, "solver": solver, "guidance_scale": 4.0}
    torch.testing.assert_close(frames(pipe().to("cuda"), **options).cpu(), frames(pipe(), **options), atol=1e-4, rtol=0)


def test_adapters_and_step_caches(gpu):
    from diffusers import FirstBlockCacheConfig

    def made(device: torch.device) -> torch.Tensor:
        pipe = bare_pipeline().to(device)
        rng = torch.Generator().manual_seed(0)
        width = pipe.transformer.blocks[0].attn1.to_q.in_features
        name = "diffusion_model.blocks.0.self_attn.q"
        down, up = torch.randn(2, width, generator=rng), torch.randn(width, 2, generator=rng)
        pipe.load_lora_weights({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, adapter_name="one")
        pipe.set_adapters("one", 0.5)
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.08))
        return frames(pipe, num_inference_steps=4).cpu()

    torch.testing.assert_close(made(gpu), made(torch.device("cpu")), atol=1e-4, rtol=0)


def test_a_command_on_a_gpu_writes_the_film_of_the_cpu(gpu, tmp_path, capsys):
    folder = Path(str(resources.files("scail2"))) / "assets" / "example" / "animation"
    shutil.copy(folder / "reference.png", tmp_path)
    with VideoReader(folder / "driving.mp4") as reader, VideoWriter(tmp_path / "short.mp4", 16, (128, 128)) as writer:
        writer.write(reader.frames(0, 21))
    films = []
    for device in ("cuda", "cpu"):
        film = tmp_path / f"{device}.mkv"
        given = ["--reference", tmp_path / "reference.png", "--driving", tmp_path / "short.mp4", "--output", film]
        with pytest.raises(SystemExit) as ended:
            main(["animate", *map(str, given), "--device", device, "--dtype", "float32", "--codec", "ffv1"])
        assert ended.value.code == 0, capsys.readouterr().err
        with VideoReader(film) as reader:
            films.append(reader.frames(0, len(reader)).astype(np.int16))
    assert films[0].shape == films[1].shape == (21, 128, 128, 3)
    assert np.abs(films[0] - films[1]).max() <= 1
