"""Programs of other people as generators: run in an environment that the user names, files in and files out."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scail2.data.media import encode_png
from scail2.errors import InputError
from scail2.files.documents import parse_json
from scail2.files.storage import hash_file, write_bytes
from scail2.synthesis.generators.protocol import Array, Clip, GenerationError, Motion
from scail2.video import VideoReader, VideoWriter, resize_cover

# Seconds a program has to end after it was asked to, and what of its last words an error repeats.
_PATIENCE, _LAST_LINES, _LAST_BYTES = 10.0, 12, 20_000
_VERSIONS_SECONDS = 120.0
_VERSIONS = """
import importlib.metadata as known, json, platform, sys
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = known.version(name)
    except known.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """Where somebody else's program is and what runs it.

    Attributes:
        python: interpreter of the environment that has what the program needs.
        folder: of the program's code; it is run there.
        timeout: seconds after which a run is given up.
        environment: variables beside those of this process, as (name, value).
        packages: whose versions are recorded.
    """

    python: Path
    folder: Path
    timeout: float = 3600.0
    environment: tuple[tuple[str, str], ...] = ()
    packages: tuple[str, ...] = ("torch", "transformers", "diffusers", "numpy")

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise InputError(f"A program is given {self.timeout} seconds: it must be more than 0.")

    def check(self, *scripts: str) -> None:
        """Raises InputError where interpreter, folder or a script is not there."""
        if not os.access(self.python, os.X_OK):
            raise InputError(
                f"There is no interpreter {self.python}: name the python of the program's own environment."
            )
        for path in (self.folder, *(self.folder / each for each in scripts)):
            if not path.exists():
                raise InputError(f"There is no {path}: name the folder of the program's code.")

    def versions(self, *scripts: str) -> dict[str, Any]:
        """Versions of Python and packages in its environment, and hashes of its scripts."""
        self.check(*scripts)
        hashes = {each: hash_file(self.folder / each) for each in scripts}
        return {"scripts": hashes, "versions": _versions(self.python, self.packages)}

    def run(self, arguments: Sequence[str], name: str) -> None:
        """Runs the program's interpreter with arguments, in its folder, and waits.

        Whatever ends the waiting (its time, Ctrl-C) ends the program and all that it started.

        Raises:
            GenerationError: it fails or takes too long; the sentence ends with its last words.
            InputError: it cannot be started.
        """
        with tempfile.TemporaryFile() as said:
            process = self._start(arguments, said)
            try:
                code = process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                _end(process)
                raise GenerationError(f"{name} was given up after {self.timeout:g} s.{_last_words(said)}") from None
            except BaseException:
                _end(process)
                raise
            if code:
                how = f"with exit code {code}" if code > 0 else f"by signal {-code}"
                raise GenerationError(f"{name} ended {how}.{_last_words(said)}")

    def _start(self, arguments: Sequence[str], said: BinaryIO) -> "subprocess.Popen[bytes]":
        self.check()
        try:
            return subprocess.Popen(
                [str(self.python), *arguments],
                cwd=self.folder,
                env=os.environ | dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, which can be ended whole
            )
        except OSError as error:
            raise InputError(f"{self.python} cannot be started: {error.strerror or error}.") from error


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Asks the program's whole group to end, then ends it; a second Ctrl-C meanwhile only hurries."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        process.wait(_PATIENCE)
    with suppress(ProcessLookupError):  # what it started may outlive it
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_words(said: BinaryIO) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - _LAST_BYTES))
    lines = [line.rstrip() for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    return " It said nothing." if not lines else " Its last words:\n" + "\n".join(lines[-_LAST_LINES:])


@cache
def _versions(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    command = [str(python), "-c", _VERSIONS, *packages]
    try:
        said = subprocess.run(command, capture_output=True, timeout=_VERSIONS_SECONDS, check=True, text=True).stdout
        return parse_json(said, dict[str, str], f"the versions of {python}")
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"{python} does not tell its versions ({error}): is it an interpreter of Python?") from error


# ---- files ----------------------------------------------------------------------------------------------------------


def write_film(path: Path, clip: Clip) -> None:
    """Frames as a film that every program reads (H.264)."""
    with VideoWriter(path, clip.fps, clip.size, total_frames=len(clip.frames)) as film:
        film.write(clip.frames)


def write_picture(path: Path, picture: Array) -> None:
    """uint8 (H, W, 3) as PNG."""
    write_bytes(path, encode_png(picture))


def write_settings(path: Path, values: Any) -> None:
    """JSON, which programs that want YAML read as well."""
    write_bytes(path, json.dumps(values).encode())


def read_result(path: Path, motion: Motion, name: str) -> Clip:
    """The film that a program made, as a clip of the motion's length, rate and size.

    Raises:
        GenerationError: there is none, it cannot be read, or has too few frames.
    """
    count = len(motion.clip.frames)
    if not path.is_file():
        raise GenerationError(f"{name} ended well and wrote no {path.name}: is it the version that its page describes?")
    try:
        film = VideoReader(path)
        if len(film) < count:
            raise GenerationError(f"{name} made {len(film)} frames of {motion.name}, which has {count}.")
        frames = film.frames(0, count)
    except GenerationError:
        raise
    except InputError as error:
        raise GenerationError(f"{name} made a film that cannot be read: {error}") from error
    return Clip(frames=resize_cover(np.ascontiguousarray(frames), *motion.clip.size), fps=motion.clip.fps)


def check_clip(motion: Motion, name: str, sizes: Sequence[tuple[int, int]], longest: int) -> None:
    """Raises InputError for clips that a program would cut to its own size or length.

    Args:
        sizes: (height, width) that it makes.
    """
    height, width = motion.clip.size
    if (height, width) not in sizes:
        known = " or ".join(f"{w}x{h}" for h, w in sizes)
        raise InputError(f"{motion.name} is {width}x{height}, {name} makes {known}: bring the clip to that size first.")
    frames = len(motion.clip.frames)
    if frames > longest or frames % 4 != 1:
        raise InputError(f"{motion.name} has {frames} frames: {name} makes 4k+1 of them, at most {longest}.")
