"""From facts about a machine to verdicts: one line each, with what would mend it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from scail2.cli.machine import EXTRAS, Machine, install_command
from scail2.files.public.choice import Layout, layout_for

# GiB: what a run of the 14B holds in main memory while it loads (docs/hardware.md: its encoders are gone before it comes),
# and what the smallest useful download takes.
_LOADING, _SMALLEST_DOWNLOAD = 32.0, 28.0
_EMBEDDED = 3.0


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of a diagnosis: what was looked at, how it is, what was found, and the fix where there is one."""

    name: str
    level: Level
    found: str
    fix: str = ""


def diagnose(machine: Machine, models: list[str], damaged: list[str], folder: str) -> list[Verdict]:
    """Verdicts about a machine, in the order in which a run would need things.

    Args:
        models: short names of the complete models in ``folder``.
        damaged: files in it that are not what they should be.
    """
    return [
        _python(machine),
        *_torch(machine),
        _packages(machine),
        *_extras(machine),
        _memory(machine),
        *_folders(machine),
        _disk(machine, bool(models)),
        _models(models, damaged, folder),
    ]


def _python(machine: Machine) -> Verdict:
    major, minor = (int(part) for part in machine.python.split(".")[:2])
    if (major, minor) < (3, 11):
        return Verdict("Python", Level.PROBLEM, machine.python, "scail2 needs Python 3.11 or newer")
    return Verdict("Python", Level.OK, f"{machine.python}, {machine.platform}, scail2 {machine.version}")


def _torch(machine: Machine) -> Iterator[Verdict]:
    if machine.torch is None:
        fix = "pip install --force-reinstall torch (https://pytorch.org/get-started says which build)"
        yield Verdict("PyTorch", Level.PROBLEM, f"does not load: {machine.torch_error}", fix)
        return
    yield Verdict("PyTorch", Level.OK, f"{machine.torch}, built for {machine.build}")
    yield from _gpu(machine)
    if not machine.gpus:
        found = "native" if machine.cpu_bf16 else "not native: computed in float32, which is faster here"
        yield Verdict("bfloat16", Level.OK if machine.cpu_bf16 else Level.NOTE, f"{found} on this processor")
    else:
        emulating = [gpu.name for gpu in machine.gpus if not gpu.bf16]
        fix = "--dtype float16" if emulating else ""
        found = f"emulated, and slow, on {', '.join(emulating)}" if emulating else "native on the GPU"
        yield Verdict("bfloat16", Level.NOTE if emulating else Level.OK, found, fix)
    others = f"and {', '.join(machine.kernels)} (pipe.transformer.set_attention_backend)" if machine.kernels else ""
    yield Verdict("attention", Level.OK, f"PyTorch's own {others}".strip())


def _gpu(machine: Machine) -> Iterator[Verdict]:
    driver = f", driver {machine.driver}" if machine.driver else ""
    for gpu in machine.gpus:
        if gpu.memory is None:
            yield Verdict("GPU", Level.NOTE, f"{gpu.name}, memory shared with the processor")
            continue
        free = "" if gpu.free is None else f", {gpu.free:.1f} free"
        found = f"{gpu.name}, {gpu.memory:.1f} GiB{free}{driver}"
        layout = layout_for(gpu.memory)
        if layout is None:
            fix = f"the embedded checkpoint runs; for the 14B at 512x896 take a GPU of {Layout.BLOCK_OFFLOAD.need} GiB or more"
            yield Verdict("GPU", Level.NOTE, f"{found}: too little for the 14B at 512x896", fix)
        elif layout is Layout.RESIDENT:
            yield Verdict("GPU", Level.OK, f"{found}: the 14B fits whole")
        else:
            yield Verdict("GPU", Level.NOTE, f"{found}: the 14B fits in parts", layout.meaning)
    if machine.gpus:
        return
    if machine.driver is None:
        yield Verdict(
            "GPU", Level.NOTE, "none: the embedded checkpoint runs on the processor, the 14B would take hours"
        )
    elif machine.build == "CPU":
        fix = "install a build of PyTorch for the GPU: https://pytorch.org/get-started"
        yield Verdict("GPU", Level.PROBLEM, f"driver {machine.driver}, but PyTorch is built for the CPU", fix)
    else:
        fix = "update the driver, or install PyTorch for an older one: https://pytorch.org/get-started"
        found = f"driver {machine.driver}, but PyTorch for {machine.build} finds no device"
        yield Verdict("GPU", Level.PROBLEM, found, fix)


def _packages(machine: Machine) -> Verdict:
    if machine.packages:
        return Verdict("packages", Level.PROBLEM, "; ".join(machine.packages), "pip install --upgrade scail2")
    return Verdict("packages", Level.OK, "everything required is there")


def _extras(machine: Machine) -> Iterator[Verdict]:
    for name, there in machine.extras.items():
        gives = EXTRAS[name][1]
        fix = "" if there else install_command(name)
        yield Verdict(
            f"extra {name}", Level.OK if there else Level.NOTE, f"{'' if there else 'incomplete: '}{gives}", fix
        )


def _memory(machine: Machine) -> Verdict:
    found = f"{machine.memory:.1f} GiB, {machine.free_memory:.1f} free"
    if machine.free_memory < _EMBEDDED:
        return Verdict(
            "memory", Level.PROBLEM, found, f"free {_EMBEDDED:.0f} GiB: even the embedded checkpoint needs that"
        )
    if machine.memory < _LOADING:
        fix = f"the 14B takes about {_LOADING:.0f} GiB while it is not on a GPU"
        return Verdict("memory", Level.NOTE, found, fix)
    return Verdict("memory", Level.OK, found)


def _folders(machine: Machine) -> Iterator[Verdict]:
    for what, path, writable in machine.folders:
        fix = "" if writable else "choose another folder, or change its permissions"
        found = path if writable else f"{path} cannot be written to"
        yield Verdict(what, Level.OK if writable else Level.PROBLEM, found, fix)


def _disk(machine: Machine, has_models: bool) -> Verdict:
    found = f"{machine.disk:.1f} GiB free where models are kept"
    if machine.disk < 1:
        return Verdict("disk", Level.PROBLEM, found, "free some space: runs keep every segment")
    if machine.disk < _SMALLEST_DOWNLOAD and not has_models:
        fix = f"the 14B takes {_SMALLEST_DOWNLOAD:.0f} GiB or more: scail2 setup --folder DIR keeps it elsewhere"
        return Verdict("disk", Level.NOTE, found, fix)
    return Verdict("disk", Level.OK, found)


def _models(models: list[str], damaged: list[str], folder: str) -> Verdict:
    if damaged:
        fix = "move them away and run scail2 setup --download"
        return Verdict("models", Level.PROBLEM, f"not what they should be, in {folder}: {', '.join(damaged)}", fix)
    if not models:
        return Verdict("models", Level.NOTE, f"only the embedded checkpoint; nothing in {folder}", "scail2 setup")
    return Verdict("models", Level.OK, f"{', '.join(models)} in {folder}")
