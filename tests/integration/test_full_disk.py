"""Commands on a disk that really fills up: one sentence with the path, nothing half-made, and the next run completes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from recipe_material import toy_model
from safetensors.torch import load_file

from scail2.cli.app import main

KIB = 1024
SIZE = 4 * KIB * KIB
# Free space when the command begins: none, a page, and levels at which it ends in the middle of its work.
LEVELS = [0, 4 * KIB, 12 * KIB, 40 * KIB, 100 * KIB]


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A file system of 4 MiB in memory."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if (
        os.getuid()
        or shutil.which("mount") is None
        or subprocess.run(mount, check=False, capture_output=True).returncode
    ):
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny model and cached samples for it, on another disk."""
    folder = tmp_path_factory.mktemp("world")
    model = toy_model(folder, 32, z_dim=8, num_static_channels=6)
    assert call("cache", *CACHE, "--autoencoder", model / "vae", "--out", folder / "latents") == 0
    return folder


CACHE = ("--samples", 4, "--frames", 5, "--size", 32, "--workers", 1)


def call(*arguments) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(each) for each in arguments])
    return end.value.code or 0


def command(verb: str, world: Path, out: Path) -> list:
    model = world / "model"
    return {
        "synthesize": ["--pairs", 2, "--frames", 5, "--size", 32, "--no-poses", "--workers", 1, "--out", out],
        "cache": [*CACHE, "--autoencoder", model / "vae", "--out", out],
        "train": ["nano_continue", "--data", world / "latents", "--model", model, "--output", out, "--no-compile",
                  "--steps", 2, "--batch-size", 1, "--checkpoint-every", 1, "--sheets", 0],
        "convert": [model / "transformer", "--out", out],
        "evaluate": [model, "--clips", 1, "--frames", 9, "--size", 32, "--steps", 1, "--task", "animation_single",
                     "--json", out / "report.json", "--device", "cpu"],
    }[verb]  # fmt: skip


def leave_free(spare: Path, level: int) -> None:
    """Fills the disk with one file but for ``level`` bytes."""
    with spare.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4 * KIB))
        except OSError:
            file.truncate(max(0, file.tell() // (4 * KIB) * 4 * KIB - level))


def check_whole(verb: str, out: Path, world: Path) -> None:
    if verb == "convert":
        ours, theirs = (
            load_file(folder / "diffusion_pytorch_model.safetensors")
            for folder in (out, world / "model" / "transformer")
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    elif verb == "train":
        assert max(each.name for each in (out / "checkpoints").iterdir()) == "step-00000002"
        assert (out / "transformer" / "config.json").is_file()
    elif verb == "evaluate":
        assert (out / "report.json").stat().st_size > 500
    else:
        assert [each.name for each in out.glob("*.tar")] == ["shard-00000.tar"]


@pytest.mark.parametrize("verb", ["synthesize", "cache", "convert", "train", "evaluate"])
def test_a_full_disk_ends_in_one_sentence_and_a_rerun_completes(verb, disk, world, capsys):
    out, refused = disk / "out", 0
    for level in LEVELS:
        spare = disk / "spare"
        leave_free(spare, level)
        capsys.readouterr()
        more = ["--resume"] if verb in ("synthesize", "cache") else []
        code = call(verb, *command(verb, world, out), *more)
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert (code, len(told)) in ((0, 0), (2, 1)), told
        refused += code == 2
        if code == 2:
            assert "the disk is full" in told[0], told
            assert str(disk) in told[0], told
        left = {
            each.name
            for each in disk.rglob("*")
            if each.suffix in (".partial", ".part", ".lock") or each.name == ".lock"
        }
        assert not left
        if code == 2 and verb in ("convert", "evaluate"):
            assert not out.exists() or os.listdir(out) == []
        spare.unlink()
        if code == 0:
            break
    assert refused >= 2
    if code:
        assert call(verb, *command(verb, world, out), *more) == 0
    check_whole(verb, out, world)
    shutil.rmtree(out)


def test_a_read_only_file_system_is_named(disk, world, capsys):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        for verb in ("synthesize", "cache", "convert", "train", "evaluate"):
            capsys.readouterr()
            assert call(verb, *command(verb, world, disk / "other")) == 2
            (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            assert "the file system is read-only" in told
            assert str(disk) in told
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
