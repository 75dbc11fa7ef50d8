"""What `scail2 serve` and `scail2 studio` refuse before they listen."""

from types import SimpleNamespace

import pytest

from scail2.cli.app import main
from scail2.files.public.embedded import embedded_model_path
from scail2.serving import ray_workers
from scail2.serving.workers import ProcessWorker, device_of_order

SEGMENTER = embedded_model_path().with_name("segmenter.safetensors")


@pytest.mark.parametrize("verb", [("serve",), ("studio", "--no-browser")])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--model", "/none"], "There is no model /none.\n"),
        (
            ["--model", "owner/none"],
            "There is no model owner/none; to download it from the Hub, write hub:owner/none.\n",
        ),
        (["--lora", "look.safetensors"], "--lora is NAME=PATH here, not 'look.safetensors'"),
        (["--lora", "look=none.safetensors"], "none.safetensors"),
        (["--lora", "a=nano-dpo", "--lora", "a=nano-dpo:0.5"], "--lora gives the name 'a' to two files"),
        (["--lora", f"a={SEGMENTER}"], "segmenter.safetensors holds no LoRA."),
        (["--lora", f"a={__file__}"], "is not a readable safetensors file"),
        (["--sam3", "none.safetensors"], "--sam3"),
        (["--gpus", "0,0"], "--gpus is a list of different numbers"),
    ],
)
def test_what_cannot_be_served_is_refused(verb, given, told, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCAIL2_TOKEN", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main([*verb, *given])
    assert stopped.value.code == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert told in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("visible", "device", "seen"),
    [
        (None, "cuda:1", "1"),
        ("4,5", "cuda:0", "4"),
        ("4, 5", "cuda:1", "5"),
        ("GPU-3f,GPU-9a", "cuda:1", "GPU-9a"),
        ("4,5", "cpu", "4,5"),
        ("4,5", None, "4,5"),
    ],
)
def test_a_worker_sees_one_of_the_cards_that_its_server_may_see(visible, device, seen, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert ProcessWorker(device)._environment()["CUDA_VISIBLE_DEVICES"] == seen
    assert device_of_order(device) == ("cuda" if device in ("cuda:0", "cuda:1") else device)


@pytest.mark.parametrize("verb", [("serve",), ("studio", "--no-browser")])
@pytest.mark.parametrize(
    ("visible", "told"),
    [
        ("4,5", "There is no card 2: CUDA_VISIBLE_DEVICES is '4,5', 2 cards, which are counted from 0."),
        ("", "There is no card 0: CUDA_VISIBLE_DEVICES is '', 0 cards"),
    ],
)
def test_cards_that_the_server_may_not_see_are_refused(verb, visible, told, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(SystemExit) as stopped:
        main([*verb, "--gpus", "0,2"])
    assert stopped.value.code == 2
    assert told in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("device", "cluster", "gpus"),
    [(None, {"GPU": 2.0}, 1), (None, {"CPU": 8.0}, 0), ("cpu", {"GPU": 2.0}, 0), ("cuda:0", {"CPU": 8.0}, 1)],
)
def test_a_ray_actor_has_a_gpu_where_the_cluster_has_any(device, cluster, gpus, monkeypatch):
    """`cuda:0` of a cluster that has none yet waits for one."""
    given = {}
    actor = SimpleNamespace(options=lambda **options: given.update(options) or SimpleNamespace(remote=lambda: None))
    ray = SimpleNamespace(cluster_resources=lambda: cluster, remote=lambda _: actor)
    monkeypatch.setattr(ray_workers, "connect", lambda: ray)
    ray_workers.RayWorker(device)
    assert given["num_gpus"] == gpus
