"""What this machine is: Python, PyTorch, its devices and drivers, memory and disks. Facts only; see `diagnosis`."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scail2.budget.machines import GIB, main_memory
from scail2.files.storage import existing, free_bytes

# Attention kernels that diffusers can be told to use, by the module that brings them: module -> what diffusers calls it.
KERNELS = {
    "flash_attn_interface": "_flash_3",
    "flash_attn": "flash",
    "sageattention": "sage",
    "xformers": "xformers",
}
# Extras of the package: name -> (modules that must be there, what they are for).
EXTRAS = {
    "gguf": (("gguf",), "reading GGUF files"),
    # The second: what reads such a tokenizer was generated for protobuf 5.26, and other packages hold older ones in place.
    "text": (("sentencepiece", "google.protobuf.runtime_version"), "umT5's tokenizer as ComfyUI's files carry it"),
    "people": (("ai_edge_litert", "cv2"), "masks of real people without a download"),
    "data": (("skia",), "drawing puppets: scail2 synthesize, train nano, evaluate"),
    "serve": (("fastapi", "uvicorn", "httpx"), "scail2 serve: runs behind an HTTP address"),
    "synthesis": (("openai", "pydantic"), "models asked over an address: judges, captions, scail2 synthesize --plan"),
    "ray": (("ray",), "work spread over machines"),
    "train": (("tensorboard",), "training curves in TensorBoard"),
    "quantised": (("torchao", "bitsandbytes"), "weights in int8 and nf4"),
    "plot": (("matplotlib",), "plots of evaluations and ablations"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One accelerator that PyTorch can use now.

    Attributes:
        memory: GiB in all; None where the device shares the machine's memory.
        free: GiB that nobody uses; None where that cannot be asked.
        bf16: whether it multiplies bfloat16 in hardware.
    """

    name: str
    memory: float | None
    free: float | None = None
    bf16: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Everything `scail2 doctor` looks at.

    Attributes:
        torch: version, None where it is not installed or does not load; then `torch_error` says why.
        build: for what PyTorch is built: "CUDA 12.8", "ROCm 6.4", "XPU", "Metal" or "CPU".
        driver: version of an installed NVIDIA or AMD driver, also where PyTorch cannot use it.
        cpu_bf16: whether this processor multiplies bfloat16 in hardware.
        kernels: attention kernels beside PyTorch's own, as diffusers calls them.
        packages: what the package requires and this installation does not have, in words.
        memory, free_memory: GiB of main memory, under the limit of a container where there is one.
        folders: (what for, folder, whether it can be written to).
        disk: GiB free where models are kept.
    """

    python: str
    platform: str
    version: str
    torch: str | None
    torch_error: str = ""
    build: str = "CPU"
    driver: str | None = None
    gpus: tuple[Gpu, ...] = ()
    cpu_bf16: bool = False
    kernels: tuple[str, ...] = ()
    extras: dict[str, bool] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    memory: float = 0.0
    free_memory: float = 0.0
    folders: tuple[tuple[str, str, bool], ...] = ()
    disk: float = 0.0


def look(models: Path) -> Machine:
    """The facts of this machine; ``models`` is where models are kept. Uses no network."""
    total, available = main_memory()
    facts: dict = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "version": own_version(),
        "torch": None,
        "driver": driver_version(),
        "kernels": tuple(name for module, name in KERNELS.items() if _is_there(module)),
        "extras": {name: has_extra(name) for name in EXTRAS},
        "packages": unmet_requirements(),
        "memory": total / GIB,
        "free_memory": available / GIB,
        "folders": tuple((what, str(path), can_write(path)) for what, path in _folders(models)),
        "disk": free_bytes(models) / GIB,
    }
    return Machine(**facts | _torch_facts())


def _torch_facts() -> dict:
    try:
        import torch
    except Exception as error:  # a wheel for another machine fails in many ways
        return {"torch": None, "torch_error": str(error).splitlines()[0] if str(error) else type(error).__name__}
    from scail2.devices import has_native_bf16

    build = next(
        (
            f"{name} {version}".strip()
            for name, version in (("CUDA", torch.version.cuda), ("ROCm", torch.version.hip), ("XPU", torch.version.xpu))
            if version
        ),
        "Metal" if torch.backends.mps.is_built() else "CPU",
    )
    return {
        "torch": torch.__version__,
        "build": build,
        "gpus": gpus(),
        "cpu_bf16": has_native_bf16(torch.device("cpu")),
    }


def gpus() -> tuple[Gpu, ...]:
    """The accelerators that PyTorch can use; imports torch."""
    import torch

    from scail2.devices import has_native_bf16

    found = []
    for kind in ("cuda", "xpu"):
        module: Any = getattr(torch, kind, None)
        for number in range(module.device_count() if module is not None else 0):
            facts = module.get_device_properties(number)
            try:
                free = module.mem_get_info(number)[0] / GIB
            except (RuntimeError, AttributeError, NotImplementedError):
                free = None
            bf16 = has_native_bf16(torch.device(kind, number))
            found.append(Gpu(name=facts.name, memory=facts.total_memory / GIB, free=free, bf16=bf16))
    if torch.backends.mps.is_available():
        found.append(Gpu(name="Apple GPU (mps; must be named with --device)", memory=None))
    return tuple(found)


def driver_version() -> str | None:
    """Of the NVIDIA or AMD driver in the kernel, by its own words; None where there is none."""
    try:
        found = re.search(r"Kernel Module\D*?(\d+\.[\d.]+)", Path("/proc/driver/nvidia/version").read_text())
        if found:
            return f"NVIDIA {found[1]}"
    except OSError:
        pass
    try:
        return f"AMD {Path('/sys/module/amdgpu/version').read_text().strip()}"
    except OSError:
        return _asked_driver()


def _asked_driver() -> str | None:
    # Outside Linux, and in containers that hide the kernel's files.
    if shutil.which("nvidia-smi") is None:
        return None
    question = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return f"NVIDIA {answer.splitlines()[0].strip()}" if answer.strip() else None


def own_version() -> str:
    """Version of this package."""
    try:
        return metadata.version("scail2")
    except metadata.PackageNotFoundError:
        return "of a source tree that is not installed"


def unmet_requirements() -> tuple[str, ...]:
    """Requirements of the installed package (extras left out) that are missing or of another version."""
    from packaging.requirements import Requirement

    try:
        stated = metadata.requires("scail2") or []
    except metadata.PackageNotFoundError:  # run from a source tree
        return ()
    unmet = []
    for each in map(Requirement, stated):
        if each.marker is not None and not each.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(each.name)
        except metadata.PackageNotFoundError:
            unmet.append(f"{each} is missing")
            continue
        if not each.specifier.contains(version, prereleases=True):
            unmet.append(f"{each} is wanted, {version} is installed")
    return tuple(unmet)


def _folders(models: Path) -> list[tuple[str, Path]]:
    return [("models", models), ("outputs here", Path.cwd()), ("temporary files", Path(tempfile.gettempdir()))]


def can_write(folder: Path) -> bool:
    """Whether files can be made in a folder, or in the nearest one above it that exists."""
    place = existing(folder)
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def install_command(*extras: str) -> str:
    """What installs extras of the package, and what they do not bring by themselves."""
    more = " 'protobuf>=5.26'" if "text" in extras else ""
    return f"pip install 'scail2[{','.join(extras)}]'{more}"


def has_extra(name: str) -> bool:
    """Whether an extra of the package is installed."""
    return all(map(_is_there, EXTRAS[name][0]))


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
