"""What the verbs refuse to write to, and that a second command on an output is refused, by the command line."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from run_material import make_material, save_model
from safetensors.torch import load_file
from training_material import make_world

from scail2.checkpoints.transformer_files import convert_transformer
from scail2.cli.app import main
from scail2.files.ownership import lock_beside, locked
from scail2.models.transformer import SCAIL2Transformer3DModel


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_material(folder, frames=5)
    save_model(folder / "model")
    make_world(folder / "world")
    convert_transformer(
        SCAIL2Transformer3DModel, folder / "model" / "transformer", folder / "official.safetensors", to="official"
    )
    return folder


@pytest.fixture
def place(inputs, tmp_path, monkeypatch) -> Path:
    """A working folder with copies of all inputs."""
    shutil.copytree(inputs, tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    return tmp_path


MASKS = "masks --reference in/reference.png --driving in/driving.mkv --reference-mask in/reference_mask.png " \
    "--driving-mask in/driving_mask.mkv --output"  # fmt: skip
SMALL = "--frames 5 --size 32 --workers 1"
PAIRS = f"synthesize --pairs 1 {SMALL} --out"
CACHE = f"cache --samples 2 {SMALL} --autoencoder in/world/model/vae --out"


def call(line: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(line.split())
    return end.value.code or 0


def tree(folder: Path) -> dict[str, bytes | str | None]:
    return {
        path.relative_to(folder).as_posix(): (
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        )
        for path in folder.rglob("*")
    }


def refused(place: Path, capsys, line: str, said: str) -> None:
    before = tree(place)
    capsys.readouterr()
    assert call(line) == 2, line
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1, line
    assert said in error[0], (line, error)
    assert tree(place) == before, line


def test_conversion_never_replaces_anything(place, capsys):
    (place / "alias.safetensors").symlink_to("in/official.safetensors")
    (place / "same").symlink_to("in/model")
    (place / "mine").mkdir()
    (place / "mine" / "letter.txt").write_text("keep")
    (place / "mine.safetensors").write_bytes(b"keep")
    one, folder = "convert in/official.safetensors", "convert in/model --pipeline"
    for line, said in (
        (f"{one} --to official --out in/official.safetensors", "is also the source"),
        (f"{one} --to official --out alias.safetensors", "is also the source"),
        (f"{one} --to official --out in/../in/official.safetensors", "is also the source"),
        ("convert alias.safetensors --to comfy --out in/official.safetensors", "is also the source"),
        (f"{one} --out in", "lies inside the output"),
        (f"{one} --to official --out mine.safetensors", "exists already"),
        (f"{one} --to official --out mine", "one .safetensors file: name it so"),
        (f"{one} --out mine", "exists already"),
        (f"{one} --out mine.safetensors", "exists already"),
        (f"{folder} --out in/model", "is also the source"),
        (f"{folder} --out same", "is also the source"),
        (f"{folder} --out in/model/new", "lies inside the source"),
        (f"{folder} --out same/new", "lies inside the source"),
    ):
        refused(place, capsys, line, said)
    assert call(f"{one} --out made") == 0
    assert call("convert made --to official --out back.safetensors") == 0
    back, given = (load_file(place / name) for name in ("back.safetensors", "in/official.safetensors"))
    assert back.keys() == given.keys()
    assert all(torch.equal(back[name], given[name]) for name in given)


@pytest.mark.parametrize(
    ("line", "name", "mark"), [(PAIRS, "pairs", "pairs.json"), (CACHE, "cached samples", "cache.json")]
)
def test_shards_go_only_where_nothing_else_is(place, capsys, line, name, mark):
    (place / "mine").mkdir()
    (place / "mine" / ".notes.part").write_text("keep")
    (place / "named").mkdir()
    (place / "named" / mark).write_text('["a list of mine"]')
    (place / "linked").mkdir()
    (place / "linked" / ".lock").symlink_to("../in/reference.png")
    refused(place, capsys, f"{line} mine", f"holds other files and no {name}")
    refused(place, capsys, f"{line} mine --resume", f"holds other files and no {name}")
    refused(place, capsys, f"{line} named --resume", f"holds other files and no {name}")
    refused(place, capsys, f"{line} in/model", f"holds other files and no {name}")
    refused(place, capsys, f"{line} linked", ".lock is no lock of scail2")
    assert call(f"{line} made") == 0
    (place / "made" / ".notes.part").write_text("keep")
    refused(place, capsys, f"{line} made", "go on with --resume")
    before = tree(place / "made")
    assert call(f"{line} made --resume") == 0
    assert tree(place / "made") == before


def test_a_cache_is_not_made_inside_what_it_is_made_of(place, capsys):
    assert call(f"{PAIRS} pairs") == 0
    cache = f"cache --samples 2 --workers 1 --source pairs --autoencoder {place}/in/world/model/vae"
    refused(place, capsys, f"{cache} --out pairs", "is also the source")
    refused(place, capsys, f"{cache} --out pairs/cache", "lies inside the source")
    refused(place, capsys, f"{cache} --out in/world/model/vae/cache", "lies inside the autoencoder")


@pytest.mark.parametrize(
    ("line", "output", "beside"),
    [
        (f"{MASKS} out", "out", False),
        (f"{PAIRS} out", "out", False),
        (f"{CACHE} out", "out", False),
        ("convert in/model/transformer --out out", "out", True),
        ("convert in/model/transformer --to official --out out.safetensors", "out.safetensors", True),
        ("train nano --model in/world/model --data in/world/latents --device cpu --output out", "out", False),
        ("evaluate in/model --clips 1 --json out.json", "out.json", True),
        ("evaluate in/model --clips 1 --out out", "out", False),
    ],
)
def test_an_output_in_use_is_refused(place, capsys, line, output, beside):
    with locked(place / output, lock_beside(place / output) if beside else None):
        refused(place, capsys, line, f"{output} is in use by process {os.getpid()}; wait for it to end or stop it.")


def test_masks_are_not_written_through_links(place, capsys):
    assert call(f"{MASKS} out") == 0
    (place / "elsewhere").mkdir()
    (place / "out" / "superseded").symlink_to("../elsewhere")
    refused(place, capsys, f"{MASKS} out --width 16 --height 16", "superseded is a link")
    (place / "out" / "superseded").unlink()
    (place / "out" / "driving_mask.mkv").rename(place / "mine.mkv")
    (place / "out" / "driving_mask.mkv").symlink_to("../mine.mkv")
    before = (place / "mine.mkv").read_bytes()
    assert call(f"{MASKS} out --width 16 --height 16") == 0
    assert (place / "mine.mkv").read_bytes() == before
    assert not (place / "out" / "driving_mask.mkv").is_symlink()
    assert (place / "out" / "superseded" / "1" / "driving_mask.mkv").is_symlink()
    (place / "out" / "tracks.json").write_text('{"version": 1, "tracks": "another program\'s"}')
    refused(place, capsys, f"{MASKS} out", "holds other files and no masks")


def test_the_workers_of_a_killed_command_end_with_it(tmp_path):
    """They share its standard output, which ends when the last of them has ended; what they left is swept."""
    program = """
import os, signal, sys
from scail2.data.puppet_source import PuppetSource
from scail2.data.triplet_settings import triplet_settings
from scail2.data.synthesis import SynthesisWork, write_pairs
source = PuppetSource(frames=5, height=32, width=32)
job = SynthesisWork(source=source, triplets=triplet_settings("nano"), pairs=400, pairs_per_shard=200)
def progress(done, total):
    if done and sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
write_pairs(job if sys.argv[2] == "kill" else __import__("dataclasses").replace(job, pairs=4), sys.argv[1], workers=2,
            resume=True, progress=progress)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "pairs")]
    killed = subprocess.run([*command, "kill"], stdout=subprocess.PIPE, check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert not list((tmp_path / "pairs").glob("*.tar"))
    subprocess.run([*command, "finish"], stdout=subprocess.PIPE, check=True, timeout=300)
    names = {path.name for path in (tmp_path / "pairs").iterdir()}
    assert names == {"pairs.json", "shards.json", "shard-00000.tar", "shard-00000.index.json"}
