"""Several runs side by side: their numbers as a table, their finished frames as one film or picture."""

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scail2.drift.verdict import Measure
from scail2.errors import InputError
from scail2.files.storage import is_present
from scail2.request.animation import AnimationRequest
from scail2.request.values import option_of
from scail2.runs.directory import RunDirectory
from scail2.runs.sealed import read_sealed
from scail2.runs.segment_store import JoinedFrames, SegmentStore
from scail2.runs.status import RunStatus
from scail2.video import Codec, VideoWriter, codec_for, resize_letterbox

_PAPER, _TEXT = (24, 24, 28), (230, 230, 230)
_LINE, _MARGIN, _GUTTER = 16, 6, 6
_LEAST_WIDTH = 192
_MOMENTS = 6
_CHUNK = 16
# Settings that `ComparedRun.numbers` has, by what they came to; and those that change nothing in its
# frames: where to work and to write, in which order, when to stop.
_NUMBERS = {
    "mode": "mode", "model": "model", "seed": "seed", "preset": "preset", "num_inference_steps": "steps", "solver": "solver",
    "guidance_scale": "guidance", "shift": "shift", "lora": "LoRAs", "weights": "weights", "dtype": "number format",
    "cache": "step cache", "drift_correction": "drift correction", "prompt": "prompt", "height": "size", "width": "size",
    "frames": "frames",
}  # fmt: skip
_ELSEWHERE = ("version", "output", "codec", "compare", "device", "placement", "drift_limit")


@dataclass(frozen=True)
class ComparedRun:
    """One run: what it was asked, what it measured, and the frames it has finished."""

    name: str
    run: RunDirectory

    @cached_property
    def status(self) -> RunStatus:
        """What is there."""
        return self.run.status()

    @cached_property
    def _plan(self) -> dict[str, Any]:
        path = self.run.path / "plan.json"
        if not is_present(path):
            raise InputError(f"{self.run.path} has no plan yet: nothing of it can be compared.")
        return read_sealed(path, dict[str, Any])

    @property
    def fps(self) -> Fraction:
        """Frames a second."""
        return Fraction(self._plan["fps"])

    @cached_property
    def frames(self) -> JoinedFrames:
        """Its finished frames from the film's beginning on, up to the first gap."""
        finished = set(self.status.finished)
        joined = [index for index in range(len(finished)) if set(range(index + 1)) <= finished]
        if not joined:
            raise InputError(f"{self.run.path} has no finished segment yet; resume it first.")
        return JoinedFrames(SegmentStore(self.run.path), joined)

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """What tells runs apart, by name; None where it is not known."""
        request, plan, status = self.run.request, self._plan, self.status
        sampling = plan["sampling"]["resolved"]
        return {
            "mode": str(request.mode),
            "model": Path(request.model).name if request.model else "embedded",
            "seed": request.seed,
            "preset": request.preset or "the model's own",
            "steps": sampling["steps"],
            "solver": sampling["solver"] or sampling.get("scheduler"),
            "guidance": sampling["guidance_scale"],
            "shift": sampling["shift"],
            "LoRAs": ", ".join(Path(each).name for each in request.lora) or "none",
            "weights": str(request.weights or "whole"),
            "number format": str(request.dtype or "as loaded"),
            "step cache": str(request.cache),
            "drift correction": str(request.drift_correction),
            "prompt": request.prompt or "none",
            "size": f"{plan['width']}x{plan['height']}",
            "frames": len(self.frames),
            "segments": f"{len(status.finished)} of {status.segments}",
            "seconds a segment": None if status.seconds_per_segment is None else round(status.seconds_per_segment, 1),
            **self._verdict,
        }

    @property
    def _verdict(self) -> dict[str, float | None]:
        """The worst of every measure, by its name; None where it was not measured (yet)."""
        found = self.status.verdict
        values = {measure: None if found is None else found.value(measure) for measure in Measure}
        return {
            f"worst {str(measure).replace('_', ' ')}": None if value is None else round(value, 2)
            for measure, value in values.items()
        }


def compared(paths: Sequence[Path]) -> list[ComparedRun]:
    """The runs to compare, each with a name of its own.

    Raises:
        InputError: fewer than two, one twice, one that is no run or has nothing finished.
    """
    if len(paths) < 2:
        raise InputError("name at least two runs: scail2 compare A.run B.run")
    places = [path.resolve() for path in paths]
    if twice := next((path for number, path in enumerate(places) if path in places[:number]), None):
        raise InputError(f"{twice} is named twice.")
    names = [path.name.removesuffix(".run") for path in places]
    unique = len(set(names)) == len(names)
    runs = [
        ComparedRun(name if unique else str(path), RunDirectory.open(path))
        for name, path in zip(names, paths, strict=True)
    ]
    for each in runs:
        assert each.numbers["frames"]
    return runs


def rows(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    """A value of each run by name: their numbers, and under its option every setting in which they differ beside these."""
    found = {name: [run.numbers[name] for run in runs] for name in runs[0].numbers}
    asked = [run.run.request.to_json() for run in runs]
    for name in asked[0]:
        values = [each[name] for each in asked]
        told = name in _NUMBERS and not _alike(found[_NUMBERS[name]])
        if name not in _ELSEWHERE and not _alike(values) and not told:
            found[option_of(AnimationRequest, name)] = _in_words(values)
    return found


def differing(runs: Sequence[ComparedRun]) -> list[str]:
    """Names of the `rows` that are not the same in all runs."""
    return [name for name, values in rows(runs).items() if not _alike(values)]


def _alike(values: Sequence[Any]) -> bool:
    return len(set(map(str, values))) == 1


def _in_words(values: Sequence[Any]) -> list[str | None]:
    """Values of a setting; paths without the folders that they share, None where it is not given."""
    lists = [value if isinstance(value, list) else [value] for value in values]
    folders = [Path(each).parts[:-1] for value in lists for each in value if _is_path(each)]
    shared = sum(1 for _ in itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False)))

    def word(value: Any) -> str:
        if _is_path(value):
            return str(Path(*Path(value).parts[shared:]))
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:g}" if isinstance(value, float) else str(value)

    return [None if value in ([], [None]) else ", ".join(map(word, value)) for value in lists]


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_absolute()


class SideBySide:
    """The runs' frames beside each other, a column each with its numbers above, one moment after the other.

    Every column has the largest height among the runs; a run that has ended is held, darkened.
    """

    def __init__(self, runs: Sequence[ComparedRun]):
        self.runs = runs
        self.fps = max(run.fps for run in runs)
        self.total = max(-(-len(run.frames) * self.fps // run.fps) for run in runs)
        height = max(run.frames.height for run in runs)
        widths = [max(_LEAST_WIDTH, round(run.frames.width * height / run.frames.height)) for run in runs]
        # Even sizes, for 4:2:0.
        self._height, self._widths = height + height % 2, [width + width % 2 for width in widths]
        self._heads = self._draw_heads()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        gutters = _GUTTER * (len(self.runs) - 1)
        return self._heads[0].shape[0] + self._height, sum(self._widths) + gutters

    def frame(self, number: int) -> np.ndarray:
        """Picture ``number``, at ``number / fps`` seconds: uint8 (H, W, 3)."""
        columns = []
        for run, width, head in zip(self.runs, self._widths, self._heads, strict=True):
            index = int(number * run.fps / self.fps)
            shown = run.frames.frames(min(index, len(run.frames) - 1), min(index, len(run.frames) - 1) + 1)[0]
            panel = resize_letterbox(shown, self._height, width)
            if index >= len(run.frames):
                panel = (panel * 0.35).astype(np.uint8)
            columns += [
                np.concatenate([head, panel]),
                np.full((len(head) + self._height, _GUTTER, 3), _PAPER, np.uint8),
            ]
        return np.concatenate(columns[:-1], axis=1)

    def chunks(self) -> Iterator[np.ndarray]:
        """All pictures in order, (T, H, W, 3)."""
        for start in range(0, self.total, _CHUNK):
            yield np.stack([self.frame(number) for number in range(start, min(start + _CHUNK, self.total))])

    def sheet(self) -> np.ndarray:
        """A few moments from beginning to end under each other, the numbers on top once: uint8 (H, W, 3)."""
        chosen = np.unique(np.linspace(0, self.total - 1, min(_MOMENTS, self.total)).round().astype(int)).tolist()
        top = len(self._heads[0])
        rows = [self.frame(number)[top if row else 0 :] for row, number in enumerate(chosen)]
        return np.concatenate(rows)

    def _draw_heads(self) -> list[np.ndarray]:
        known, shown = rows(self.runs), differing(self.runs)
        font = ImageFont.load_default(11)
        texts = []
        for column, (run, width) in enumerate(zip(self.runs, self._widths, strict=True)):
            values = {name: known[name][column] for name in shown}
            numbers = " · ".join(
                f"{name} {'-' if value is None else textwrap.shorten(str(value), 60)}" for name, value in values.items()
            )
            wrapped = textwrap.wrap(numbers or "the same settings", max(12, (width - 2 * _MARGIN) // 6))
            texts.append([*textwrap.wrap(run.name, max(12, (width - 2 * _MARGIN) // 6)), *wrapped])
        lines = max(map(len, texts))
        height = 2 * _MARGIN + _LINE * lines
        heads = []
        for text, width in zip(texts, self._widths, strict=True):
            paper = Image.new("RGB", (width, height + height % 2), _PAPER)
            draw = ImageDraw.Draw(paper)
            for number, line in enumerate(text):
                draw.text((_MARGIN, _MARGIN + _LINE * number), line, fill=_TEXT, font=font)
            heads.append(np.asarray(paper))
        return heads


def write_film(runs: Sequence[ComparedRun], path: Path) -> None:
    """The comparison as a film, in the form that its name asks for."""
    shown = SideBySide(runs)
    with VideoWriter(path, shown.fps, shown.size, codec=film_codec(path), total_frames=shown.total) as writer:
        for chunk in shown.chunks():
            writer.write(chunk)


def film_codec(path: Path) -> Codec:
    """The codec of a comparison; `InputError` for a name that nothing is written under."""
    return codec_for(path)
