"""Which files for which machine, and the verdicts about one: by value, on machines made up here."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import namedtuple
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch
from checkpoint_files import published_vae, randomised
from diffusers import AutoencoderKLWan
from hub_server import hub_server
from safetensors.torch import save_file
from tiny import tiny_transformer

from scail2.budget import machines
from scail2.checkpoints.transformer_files import save_official
from scail2.cli import machine
from scail2.cli.app import main
from scail2.cli.diagnosis import Level, diagnose
from scail2.cli.machine import EXTRAS, GIB, Gpu, Machine
from scail2.errors import InputError
from scail2.files.public import catalogue
from scail2.files.public.catalogue import (
    DEFAULT_MODEL,
    FP8,
    LORAS,
    MODEL_SETS,
    ModelSet,
    PublicFile,
    every_file,
    model_set,
)
from scail2.files.public.choice import Layout, choose
from scail2.files.public.installed import (
    PARTIAL,
    FileState,
    Receipt,
    installed_model,
    keep_receipt,
    model_folder,
    remember,
    state_of,
)
from scail2.loading.by_name import load_pipeline
from scail2.request.animation import AnimationRequest

ROOT = Path(__file__).parents[2]
CARD = Gpu(name="RTX 4090", memory=23.6, free=22.9)
FIT = Machine(
    python="3.12.1",
    platform="Linux x86_64",
    version="0.1.0",
    torch="2.13.0",
    build="CUDA 12.8",
    driver="NVIDIA 570.86",
    gpus=(CARD,),
    cpu_bf16=True,
    kernels=("flash", "sage"),
    extras=dict.fromkeys(EXTRAS, True),
    memory=64.0,
    free_memory=60.0,
    folders=(("models", "/m", True), ("outputs here", "/o", True), ("temporary files", "/t", True)),
    disk=500.0,
)


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("SCAIL2_HOME", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def run(capsys, *arguments):
    """Exit code, lines of standard output, standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(each) for each in arguments])
    told = capsys.readouterr()
    return end.value.code or 0, [line.rstrip() for line in told.out.splitlines()], told.err


# ---- the table ------------------------------------------------------------------------------------------------------


def test_the_table_is_consistent():
    files = every_file()
    assert len({each.place for each in files}) == len(files)
    assert len({each.name for each in MODEL_SETS}) == len(MODEL_SETS)
    for each in files:
        assert each.sha256 is None or re.fullmatch("[0-9a-f]{64}", each.sha256)
        assert each.size is None or abs(each.size / 1e9 - each.gigabytes) < 0.006
        assert not each.place.startswith("/")
        assert ".." not in each.place
        assert each.verified != (
            "not verified" in each.checked or "listings" in each.checked or "estimated" in each.checked
        )
        assert each.extra is None or each.extra in EXTRAS
        assert each.licence
    for each in MODEL_SETS:
        places = [file.place for file in each.files]
        assert each.main in places or all(place.startswith(f"{each.main}/") for place in places)


def test_every_extra_of_the_package_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"]) - {"test"}


# ---- files for some memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "files", "layout"),
    [
        (None, "scail2-14b-fp8", None),
        (6, "scail2-14b-fp8", None),
        (7.3, "scail2-14b-fp8", None),
        (7.6, "scail2-14b-fp8", Layout.BLOCK_OFFLOAD),
        (8, "scail2-14b-fp8", Layout.BLOCK_OFFLOAD),
        (24, "scail2-14b-fp8", Layout.BLOCK_OFFLOAD),
        (38.9, "scail2-14b-fp8", Layout.BLOCK_OFFLOAD),
        (39, "scail2-14b-fp16", Layout.ENCODERS_FIRST),
        (48, "scail2-14b-fp16", Layout.ENCODERS_FIRST),
        (51, "scail2-14b-fp16", Layout.RESIDENT),
        (80, "scail2-14b-fp16", Layout.RESIDENT),
    ],
)
def test_the_choice_follows_the_memory(memory, files, layout):
    choice = choose(memory)
    assert (choice.files.name, choice.layout) == (files, layout)


def test_setup_for_24_gib(capsys, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**13, 0, 123 * 10**9))
    code, lines, error = run(capsys, "setup", "--memory", "24")
    assert (code, error) == (0, "")
    assert lines[0] == "For 24 GiB of GPU memory, as asked."
    assert lines[1].startswith("It fits: blocks of the transformer visit the GPU in turn (--placement block-offload).")
    assert "about 8 GiB for 81 frames of 512x896, by arithmetic on public numbers, not measured here" in lines[1]
    rows = [line.split() for line in lines if line.split()[1:2] == ["missing"]]
    assert [(row[0], row[2]) for row in rows] == [
        ("17.69", "diffusion_models/wan2.1_14B_SCAIL_2_fp8_scaled.safetensors"),
        ("0.25", "vae/wan_2.1_vae.safetensors"),
        ("6.74", "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors"),
        ("1.26", "clip_vision/clip_vision_h.safetensors"),
        ("1.23", "loras/wan2.1_SCAIL_2_DPO_lora_bf16.safetensors"),
        ("0.74", "loras/lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors"),
    ]
    assert "27.9 GB in all, 27.9 GB still to fetch; 123.0 GB free." in lines
    assert f"They go to {tmp_path / 'data' / 'scail2'}." in lines
    assert "To fetch them:  scail2 setup --model scail2-14b-fp8 --download --memory 24" in lines
    assert any(
        line.startswith("Then:  scail2 animate --model scail2-14b-fp8 --placement block-offload ") for line in lines
    )
    assert not (tmp_path / "data").exists()


def test_setup_for_80_gib_and_for_6(capsys):
    _, lines, _ = run(capsys, "setup", "--memory", "80", "--no-loras")
    places = [line.split()[2] for line in lines if line.split()[1:2] == ["missing"]]
    assert places[0] == "diffusion_models/wan2.1_14B_SCAIL_2_fp16.safetensors"
    assert not any(place.startswith("loras/") for place in places)
    assert any("everything stays on the GPU" in line for line in lines)
    _, lines, _ = run(capsys, "setup", "--memory", "6")
    assert lines[1].startswith("The 14B does not fit there at 512x896; the embedded checkpoint runs everywhere")
    code, _, error = run(capsys, "setup", "--memory", "6", "--download", "--yes")
    assert code == 2
    assert "The 14B does not fit this GPU memory: name a set with --model to download it all the same" in error


def test_setup_for_this_machine(capsys, monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: (Gpu(name="small", memory=7.6), CARD))
    _, lines, _ = run(capsys, "setup")
    assert lines[0] == "For this machine's RTX 4090, 23.6 GiB."
    assert "To fetch them:  scail2 setup --model scail2-14b-fp8 --download" in lines
    monkeypatch.setattr(machine, "gpus", lambda: (Gpu(name="Apple GPU", memory=None),))
    _, lines, _ = run(capsys, "setup")
    assert lines[0].startswith("No GPU that PyTorch can use was found")


def test_what_could_not_be_verified_is_said(capsys):
    _, lines, _ = run(capsys, "setup", "--model", "scail2-14b-official", "--memory", "80")
    text = " ".join(line.strip() for line in lines)
    assert "NOT VERIFIED: name in others' listings of the repository; the size is computed" in text
    assert (
        f"  hf download zai-org/SCAIL-2 model/1/fsdp2_rank_0000_checkpoint.pt --local-dir {model_folder()}/scail2-14b-official"
        in lines
    )


def test_unknown_set(capsys):
    code, _, error = run(capsys, "setup", "--model", "scail3", "--memory", "80")
    assert code == 2
    assert "There is no set of files called 'scail3': choose one of scail2-14b-fp16, " in error


# ---- the folder and short names -------------------------------------------------------------------------------------


def tiny_set(name, *places):
    files = [PublicFile("x", "MIT", "o/r", place, place, 0.000001, "here", size=1000) for place in places]
    return ModelSet(name, name, places[0], tuple(files))


def put(*places):
    for place in places:
        path = model_folder() / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))


def test_short_names(monkeypatch):
    sets = (tiny_set(f"{DEFAULT_MODEL}-a", "a", "vae/v"), tiny_set(f"{DEFAULT_MODEL}-b", "b", "vae/v"))
    monkeypatch.setattr(catalogue, "MODEL_SETS", sets)
    assert installed_model("other") is None
    with pytest.raises(
        InputError, match=r"The model scail2-14b is not installed in .*`scail2 setup --download` fetches"
    ):
        installed_model(DEFAULT_MODEL)
    put("b", "vae/v")
    assert installed_model(DEFAULT_MODEL) == model_folder() / "b"
    put("a")
    assert installed_model(DEFAULT_MODEL) == model_folder() / "a"
    assert installed_model(f"{DEFAULT_MODEL}-b") == model_folder() / "b"
    (model_folder() / "vae/v").write_bytes(bytes(999))
    with pytest.raises(InputError, match="not installed"):
        installed_model(DEFAULT_MODEL)


def test_the_folder(monkeypatch, tmp_path):
    assert model_folder() == tmp_path / "data/scail2"
    remember(tmp_path / "data/scail2")
    assert not (tmp_path / "data").exists()
    remember(tmp_path / "big disk")
    assert model_folder() == tmp_path / "big disk"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")  # to be ignored, by the specification
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert model_folder() == tmp_path / "home/.local/share/scail2"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "data/scail2/folder.json").write_text('{"folder": 3}')
    with pytest.raises(InputError, match=r"folder\.json"):
        model_folder()


def test_models_lists_what_is_there(capsys, monkeypatch):
    sets = (tiny_set("scail2-14b-a", "a", "vae/v"), tiny_set("scail2-14b-b", "b", "vae/v"))
    monkeypatch.setattr(catalogue, "MODEL_SETS", sets)
    put("a", "vae/v")
    (model_folder() / PARTIAL).mkdir()
    (model_folder() / PARTIAL / f"b.{'0' * 64}.part").write_bytes(b"x")
    keep_receipt(model_folder(), "vae/v", Receipt("o/r", "vae/v", "0" * 40, 1000, "1" * 64))
    assert state_of(sets[0].files[1], model_folder()) is FileState.INSTALLED
    code, lines, _ = run(capsys, "models")
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("scail2-14b")}
    assert rows["scail2-14b-a"][0] == "complete"
    assert rows["scail2-14b-b"][:4] == ["1", "of", "2", "files"]
    states = {line.split()[0]: line.split()[1] for line in lines if line.startswith(("a ", "b ", "vae/v"))}
    assert states == {"a": "found", "b": "partly", "vae/v": "installed"}


# ---- verdicts -------------------------------------------------------------------------------------------------------


def verdicts(facts, models=("scail2-14b-fp8",), damaged=()):
    return {each.name: each for each in diagnose(facts, list(models), list(damaged), "/m")}


def test_a_fit_machine_has_no_problem():
    found = verdicts(FIT)
    assert [name for name, each in found.items() if each.level is not Level.OK] == ["GPU"]
    assert found["Python"].found == "3.12.1, Linux x86_64, scail2 0.1.0"
    assert found["PyTorch"].found == "2.13.0, built for CUDA 12.8"
    assert found["GPU"].found == "RTX 4090, 23.6 GiB, 22.9 free, driver NVIDIA 570.86: the 14B fits in parts"
    assert found["GPU"].fix == "blocks of the transformer visit the GPU in turn (--placement block-offload)"
    assert found["bfloat16"].found == "native on the GPU"
    assert found["attention"].found == "PyTorch's own and flash, sage (pipe.transformer.set_attention_backend)"
    assert found["memory"].found == "64.0 GiB, 60.0 free"
    assert found["models"].found == "scail2-14b-fp8 in /m"


@pytest.mark.parametrize(
    ("memory", "level", "words"),
    [(80.0, Level.OK, "the 14B fits whole"), (6.0, Level.NOTE, "too little for the 14B at 512x896")],
)
def test_other_cards(memory, level, words):
    found = verdicts(replace(FIT, gpus=(Gpu(name="card", memory=memory),)))["GPU"]
    assert found.level is level
    assert words in found.found
    if level is Level.NOTE:
        assert "take a GPU of 8 GiB or more" in found.fix


def test_a_machine_without_a_gpu():
    found = verdicts(replace(FIT, gpus=(), driver=None, build="CPU", cpu_bf16=False), models=())
    assert found["GPU"].level is Level.NOTE
    assert found["GPU"].found.startswith("none: the embedded checkpoint runs on the processor")
    assert (found["bfloat16"].level, found["bfloat16"].found) == (
        Level.NOTE,
        "not native: computed in float32, which is faster here on this processor",
    )
    assert (found["models"].level, found["models"].fix) == (Level.NOTE, "scail2 setup")


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"python": "3.10.4"}, "Python", "scail2 needs Python 3.11 or newer"),
        ({"torch": None, "torch_error": "libcudart.so.12: no such file"}, "PyTorch", "does not load: libcudart.so.12"),
        ({"gpus": (), "build": "CPU"}, "GPU", "driver NVIDIA 570.86, but PyTorch is built for the CPU"),
        ({"gpus": ()}, "GPU", "driver NVIDIA 570.86, but PyTorch for CUDA 12.8 finds no device"),
        ({"packages": ("peft>=0.17 is missing",)}, "packages", "peft>=0.17 is missing"),
        ({"free_memory": 1.0}, "memory", "free 3 GiB: even the embedded checkpoint needs that"),
        ({"folders": (("outputs here", "/ro", False),)}, "outputs here", "/ro cannot be written to"),
        ({"disk": 0.5}, "disk", "free some space"),
    ],
)
def test_problems_name_their_fix(changes, name, words):
    found = verdicts(replace(FIT, **changes))[name]
    assert found.level is Level.PROBLEM
    assert words in f"{found.found} {found.fix}"
    assert found.fix


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"extras": dict.fromkeys(EXTRAS, True) | {"gguf": False}}, "extra gguf", "pip install 'scail2[gguf]'"),
        ({"extras": dict.fromkeys(EXTRAS, True) | {"text": False}}, "extra text", "'scail2[text]' 'protobuf>=5.26'"),
        ({"memory": 16.0}, "memory", "takes about 32 GiB while it is not on a GPU"),
        ({"gpus": (replace(CARD, bf16=False),)}, "bfloat16", "--dtype float16"),
    ],
)
def test_notes_name_what_would_be_better(changes, name, words):
    found = verdicts(replace(FIT, **changes))[name]
    assert found.level is Level.NOTE
    assert words in found.fix


def test_damaged_models_and_a_small_disk():
    found = verdicts(replace(FIT, disk=20.0), models=(), damaged=["vae/v"])
    assert found["models"].level is Level.PROBLEM
    assert "vae/v" in found["models"].found
    assert found["disk"].level is Level.NOTE
    assert verdicts(replace(FIT, disk=20.0))["disk"].level is Level.OK


def test_doctor_tells_the_truth_about_this_machine(capsys, monkeypatch):
    code, lines, error = run(capsys, "doctor", "--json")
    found = {each["name"]: each for each in json.loads("\n".join(lines))}
    assert error == ""
    assert code == int(any(each["level"] == "problem" for each in found.values()))
    assert found["PyTorch"]["found"].startswith(f"{torch.__version__}, built for ")
    assert found["temporary files"]["level"] == "ok"
    monkeypatch.setattr(machine, "can_write", lambda folder: folder != model_folder())
    code, lines, _ = run(capsys, "doctor")
    assert code == 1
    assert any(re.match(r"problem +models +.*cannot be written to\. choose another folder", line) for line in lines)


def test_facts_from_files(monkeypatch, tmp_path):
    group, driver = tmp_path / "cgroup", tmp_path / "version"
    group.mkdir()
    (group / "memory.max").write_text(f"{3 * GIB}\n")
    (group / "memory.current").write_text(f"{GIB}\n")
    driver.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23\nGCC version: gcc 12.3.0\n"
    )
    monkeypatch.setattr(machines, "_CONTAINER", group)
    found = machine.look(tmp_path)
    assert found.memory == 3.0
    assert 0 < found.free_memory <= 2.0
    planned = machines.this_machine("cpu", tmp_path)
    assert (planned.memory, planned.main_memory) == (3 * GIB, 3 * GIB)
    (group / "memory.max").write_text("max\n")
    assert machine.look(tmp_path).memory > 3.0
    known = {"/proc/driver/nvidia/version": driver}
    monkeypatch.setattr(machine, "Path", lambda path: known.get(str(path), Path(path)))
    assert machine.driver_version() == "NVIDIA 570.86.15"
    assert not machine.can_write(driver / "below")
    assert machine.can_write(tmp_path / "not" / "yet")


def test_an_extra_that_an_old_package_makes_useless_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(machine, "_is_there", lambda module: module != "google.protobuf.runtime_version")
    assert not machine.has_extra("text")
    assert machine.has_extra("gguf")
    _, lines, _ = run(capsys, "setup", "--memory", "24")
    assert "These files need more of this package: pip install 'scail2[text]' 'protobuf>=5.26'" in lines


def test_requirements_that_are_not_met(monkeypatch):
    assert machine.unmet_requirements() == ()
    stated = ["numpy>=999", "no-such-package>=1", "gguf>=999; extra == 'gguf'", "rich>=13"]
    monkeypatch.setattr(metadata, "requires", lambda _: stated)
    unmet = machine.unmet_requirements()
    assert unmet == (f"numpy>=999 is wanted, {metadata.version('numpy')} is installed", "no-such-package>=1 is missing")


# ---- the download as a command --------------------------------------------------------------------------------------


def test_download_asks_first_and_then_everything_is_there(capsys, monkeypatch, tmp_path):
    files = tiny_set("scail2-14b-a", "diffusion_models/a.safetensors", "vae/v.safetensors")
    monkeypatch.setattr(catalogue, "MODEL_SETS", (files,))
    asked = ["setup", "--model", "scail2-14b-a", "--no-loras", "--memory", "80", "--folder", tmp_path / "models"]
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        hub.files |= {("o/r", each.path): bytes([index]) * 1000 for index, each in enumerate(files.files)}
        code, _, error = run(capsys, *asked, "--download")
        assert code == 2
        assert "Nobody can be asked here: say --yes to download under MIT." in error
        assert hub.requests == []
        code, lines, error = run(capsys, *asked, "--download", "--yes")
        assert (code, error) == (0, "")
        assert lines[-1] == "Use it with --model scail2-14b-a."
    assert (tmp_path / "models/vae/v.safetensors").read_bytes() == bytes([1]) * 1000
    assert installed_model("scail2-14b-a") == tmp_path / "models/diffusion_models/a.safetensors"
    _, lines, _ = run(capsys, *asked)
    assert "Everything is there." in lines
    assert not any(line.startswith("To fetch") for line in lines)


def test_a_folder_is_remembered_once_everything_is_there(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(catalogue, "MODEL_SETS", (tiny_set("scail2-14b-a", "a", "vae/v"),))
    comfy = tmp_path / "ComfyUI models"
    (comfy / "vae").mkdir(parents=True)
    (comfy / "a").write_bytes(bytes(1000))
    asked = ["setup", "--model", "scail2-14b-a", "--no-loras", "--convert", "--memory", "80", "--folder", comfy]
    _, lines, _ = run(capsys, *asked)
    assert (
        f"To fetch them:  scail2 setup --model scail2-14b-a --download --memory 80 --no-loras --convert --folder '{comfy}'"
        in lines
    )
    assert model_folder() == tmp_path / "data/scail2"
    (comfy / "vae/v").write_bytes(bytes(1000))
    monkeypatch.setenv("SCAIL2_HOME", str(tmp_path / "old"))
    code, lines, _ = run(capsys, *(word for word in asked if word != "--convert"))
    assert (code, "Everything is there." in lines) == (0, True)
    assert f"SCAIL2_HOME is {tmp_path / 'old'}: set it to {comfy}, or later commands look there." in lines
    monkeypatch.delenv("SCAIL2_HOME")
    assert model_folder() == comfy
    assert installed_model("scail2-14b-a") == comfy / "a"


def test_a_variable_that_points_elsewhere_is_said(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(catalogue, "MODEL_SETS", (tiny_set("scail2-14b-a", "a"),))
    monkeypatch.setenv("SCAIL2_HOME", str(tmp_path / "old"))
    asked = [
        "--model",
        "scail2-14b-a",
        "--no-loras",
        "--memory",
        "80",
        "--folder",
        tmp_path / "new",
        "--download",
        "--yes",
    ]
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        hub.files["o/r", "a"] = bytes(1000)
        _, lines, _ = run(capsys, "setup", *asked)
    assert f"SCAIL2_HOME is {tmp_path / 'old'}: set it to {tmp_path / 'new'}, or later commands look there." in lines


def test_the_sets_by_name():
    assert model_set("scail2-14b-fp8").files[0] is FP8
    assert round(model_set("scail2-14b-fp8").gigabytes, 2) == 25.94


def test_a_downloaded_set_is_a_model_under_its_short_name(capsys, monkeypatch, tmp_path):
    """Small weights in the public layouts, fetched by the command and loaded by name."""
    folder = tmp_path / "published"
    folder.mkdir()
    transformer = tiny_transformer(attention_head_dim=32, ffn_dim=96, text_dim=None, image_dim=None)
    save_official(transformer, folder / "t.safetensors")
    vae = randomised(AutoencoderKLWan(base_dim=4, z_dim=16), 1)
    save_file(published_vae(vae), folder / "v.safetensors")
    contents = {name: (folder / name).read_bytes() for name in ("t.safetensors", "v.safetensors")}
    places = {"t.safetensors": "diffusion_models/t.safetensors", "v.safetensors": "vae/v.safetensors"}
    files = [
        PublicFile("x", "MIT", "o/r", name, places[name], len(content) / 1e9, "here", size=len(content))
        for name, content in contents.items()
    ]
    monkeypatch.setattr(
        catalogue, "MODEL_SETS", (ModelSet("scail2-14b-tiny", "tiny", places["t.safetensors"], tuple(files)),)
    )
    with pytest.raises(InputError, match="The model scail2-14b is not installed in"):
        load_pipeline(DEFAULT_MODEL)
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        hub.files |= {("o/r", name): content for name, content in contents.items()}
        asked = ("--model", "scail2-14b-tiny", "--no-loras", "--memory", "80", "--download", "--yes")
        assert run(capsys, "setup", *asked)[0] == 0
    pipe = load_pipeline(DEFAULT_MODEL)
    for name, value in transformer.state_dict().items():
        assert torch.equal(pipe.transformer.state_dict()[name], value), name
    assert torch.equal(pipe.vae.state_dict()["decoder.conv_in.weight"], vae.state_dict()["decoder.conv_in.weight"])
    request = AnimationRequest(reference="r.png", driving="d.mp4", output="o.mp4", model="scail2-14b-tiny")
    assert request.model == str(tmp_path / "data/scail2/diffusion_models/t.safetensors")
    assert run(capsys, "setup", *asked[:-2], "--convert")[0] == 0  # everything is there: nothing to download
    made = tmp_path / "data/scail2/converted/scail2-14b-tiny"
    (tmp_path / "data/scail2/diffusion_models/t.safetensors").unlink()
    assert installed_model(DEFAULT_MODEL) == made
    code, lines, _ = run(capsys, "setup", *asked, "--convert")
    assert (code, lines[-2]) == (0, f"{made} is there")
    assert load_pipeline(DEFAULT_MODEL).transformer.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    _, lines, _ = run(capsys, "models")
    assert any(line.startswith("scail2-14b-tiny  1 of 2 files, converted") for line in lines)
    code, lines, _ = run(capsys, "info", "scail2-14b", "--json")
    assert (code, json.loads("\n".join(lines))["kind"]) == (0, "pipeline")


# ---- how much is imported -------------------------------------------------------------------------------------------

QUICK = """
import sys
from scail2.cli.app import main
for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit as end:
        told = end.code or 0
    heavy = {"torch", "diffusers", "transformers", "huggingface_hub"} & sys.modules.keys()
    if heavy:
        sys.exit(f"{line}: {sorted(heavy)}")
    print(f"done {told}", file=sys.stderr)
"""


def test_what_needs_no_model_imports_no_torch(tmp_path):
    """Listing, asking for the version, and everything that fails for a missing file: under half a second."""
    job = "--reference nothing.png --driving nothing.mp4"
    lines = {
        "--version": 0,
        "models": 0,
        "setup --memory 24": 0,
        "info nothing.safetensors": 2,
        "info scail2-14b": 2,
        f"plan {job}": 2,
        f"plan {job} --contact-sheet sheet.png": 2,
        f"plan {job} --model nothing": 2,
        f"animate {job} --output film.mp4": 2,
        f"animate {job} --output film.mp4 --dry-run": 2,
        f"animate {job} --output film.mp4 --model scail2-14b": 2,
        f"replace {job} --output film.mp4": 2,
        f"masks {job} --out masks": 2,
        "convert nothing --out out": 2,
        "evaluate nothing": 2,
        "resume nothing": 2,
        "rerender nothing --segment 1": 2,
        "status nothing": 2,
        "clean nothing": 2,
    }
    environment = os.environ | {"XDG_DATA_HOME": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, "-c", QUICK, *lines],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    codes = [int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("done ")]
    assert codes == list(lines.values()), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_version_and_completion(capsys):
    assert run(capsys, "--version") == (0, [f"scail2 {metadata.version('scail2')}"], "")
    environment = os.environ | {"COMP_WORDS": "scail2 do", "COMP_CWORD": "1", "_SCAIL2_COMPLETE": "complete_bash"}
    code = "import sys; sys.argv[0] = 'scail2'; from scail2.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["doctor"]


# ---- the pages ------------------------------------------------------------------------------------------------------


def test_the_pages_state_the_choice_as_it_is():
    readme, page = ((ROOT / name).read_text() for name in ("README.md", "docs/setup.md"))
    for layout in Layout:
        files = choose(layout.need).files
        assert choose(layout.need).layout is layout
        total = f"{files.gigabytes + sum(each.gigabytes for each in LORAS):.1f} GB"
        assert f"| from {layout.need} GiB | {total} |" in readme
        assert f"| from {layout.need} GiB | `{files.name}` | {total} |" in page
    names = {DEFAULT_MODEL, *(each.name for each in MODEL_SETS)}
    told = set()
    for name in re.findall(r"`(scail2-14b[a-z0-9-]*|-[a-z0-9]+)`", page.partition("| name for")[2]):
        told.add(f"{DEFAULT_MODEL}{name}" if name.startswith("-") else name)
    assert told == names


def test_every_command_of_the_page_runs_or_downloads(capsys, monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: (CARD,))
    blocks = re.findall(r"```sh[^\n]*\n(.*?)```", (ROOT / "docs/setup.md").read_text(), re.DOTALL)[:2]
    commands = [line.partition("#")[::2] for block in blocks for line in block.splitlines()]
    assert len(commands) == 5
    for command, remark in commands:
        words = command.split()
        if "downloads" in remark:
            assert words == ["scail2", "setup", "--download"]
            continue
        code, lines, error = run(capsys, *words[1:])
        assert code in ((0, 1) if words[1] == "doctor" else (0,))
        assert lines
        assert error == ""
