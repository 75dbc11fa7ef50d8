"""What a run is asked about its masks: whose, from where, and characters pointed out by hand."""
# ruff: noqa: RUF009 - `setting` only wraps `dataclasses.field`

import difflib
import itertools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from scail2.errors import InputError, short
from scail2.modes import AnimationMode
from scail2.request import values
from scail2.request.names import by_field
from scail2.request.paths import absolute_if_found
from scail2.request.values import INPUTS, MASKS, OUTPUT, SEGMENTS, setting

# As many as label maps can tell apart.
MAX_CHARACTERS = 255


class Reframe(StrEnum):
    """What preflight may do about a reference framed unlike the driving video."""

    OFF = "off"
    AUTO = "auto"


class Fit(StrEnum):
    """How pictures of another aspect meet the run's size."""

    COVER = "cover"
    LETTERBOX = "letterbox"


@dataclass(frozen=True, kw_only=True)
class PointPrompt:
    """A click: `character` (counted from 1) is, or with ``inside=False`` is not, at pixel (x, y) of `frame`."""

    frame: int
    character: int
    x: float
    y: float
    inside: bool = True


@dataclass(frozen=True, kw_only=True)
class BoxPrompt:
    """A box around `character` (counted from 1) in `frame`: x0, y0, x1, y1 in pixels."""

    frame: int
    character: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What the user says about the characters. Points and boxes at later frames are corrections from there on.

    Attributes:
        text: what to look for, e.g. ("person",); each match becomes a character of its own.
        points, boxes: clicks and boxes, in pixels of the frames given to the segmenter.
        characters: how many characters to expect; None leaves it to the segmenter.
    """

    text: tuple[str, ...] = ()
    points: tuple[PointPrompt, ...] = ()
    boxes: tuple[BoxPrompt, ...] = ()
    characters: int | None = None

    @property
    def placed(self) -> bool:
        """Whether any point or box was given."""
        return bool(self.points or self.boxes)

    @property
    def all_placed(self) -> list[BoxPrompt | PointPrompt]:
        """Boxes, then points."""
        return [*self.boxes, *self.points]


def _numbers(text: str, count: int, what: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise InputError(f"cannot read {what} {text!r}: it needs {count} numbers with commas between them.")
    return values


def _placed(text: str, still: bool, form: str) -> tuple[int, int, list[str]]:
    parts = text.split(":")
    head = parts[: 1 if still else 2]
    if len(parts) < len(head) + 1 or not all(part.isdecimal() for part in head):
        raise InputError(f"cannot read {text!r}: write it as {form}.")
    frame, character = 0 if still else int(head[0]), int(head[-1])
    if not 1 <= character <= MAX_CHARACTERS:
        raise InputError(f"{text!r} names character {character}: they are counted from 1 to {MAX_CHARACTERS}.")
    return frame, character, parts[len(head) :]


def parse_point(text: str, *, still: bool = False) -> PointPrompt:
    """``FRAME:CHARACTER:X,Y`` or ``…:out`` (without FRAME for pictures) → `PointPrompt`."""
    frame, character, rest = _placed(text, still, "CHARACTER:X,Y[:out]" if still else "FRAME:CHARACTER:X,Y[:out]")
    if len(rest) > 2 or (len(rest) == 2 and rest[1] not in ("in", "out")):
        raise InputError(f"cannot read the point {text!r}: after the place comes nothing, in or out.")
    x, y = _numbers(rest[0], 2, "the point")
    return PointPrompt(frame=frame, character=character, x=x, y=y, inside=len(rest) < 2 or rest[1] == "in")


def parse_box(text: str, *, still: bool = False) -> BoxPrompt:
    """``FRAME:CHARACTER:X0,Y0,X1,Y1`` (without FRAME for pictures) → `BoxPrompt`."""
    frame, character, rest = _placed(text, still, "CHARACTER:X0,Y0,X1,Y1" if still else "FRAME:CHARACTER:X0,Y0,X1,Y1")
    if len(rest) != 1:
        raise InputError(f"cannot read the box {text!r}: it needs four numbers after the last colon.")
    x0, y0, x1, y1 = _numbers(rest[0], 4, "the box")
    return BoxPrompt(frame=frame, character=character, box=(x0, y0, x1, y1))


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskRequest:
    """Which masks a run needs: its pictures and video, masks that are given, and how the others are to be found.

    Points and boxes are written as in `parse_point` and `parse_box`; they, ``text`` and ``characters`` are for a
    segmenter. Raises `InputError` with one sentence for any value that cannot be meant.
    """

    mode: AnimationMode = field(default=AnimationMode.ANIMATION, metadata={"option": None})
    reference: Path = setting(None, INPUTS, "Picture of the character(s) to animate.", metavar="PICTURE")
    driving: Path = setting(None, INPUTS, "Video (or folder of frames) whose motion is followed.", metavar="VIDEO")
    additional_references: tuple[Path, ...] = setting(
        (),
        INPUTS,
        "Another view of the same character(s); repeatable.",
        metavar="PICTURE",
        option="--additional-reference",
    )
    height: int | None = setting(None, OUTPUT, "Height in pixels, a multiple of the model's step.")
    width: int | None = setting(None, OUTPUT, "Width in pixels, a multiple of the model's step.")
    fit: Fit = setting(Fit.COVER, OUTPUT, "Fit of the driving video: cover (crop) or letterbox (bars).")
    fps: str | float | None = setting(None, SEGMENTS, "Frame rate (16, 30000/1001); else the driving video's own.")
    frames: int | None = setting(None, SEGMENTS, "Use only this many frames from the driving video's beginning.")
    masks: Path | None = setting(None, MASKS, "Masks of an earlier run or of `scail2 masks`.", metavar="DIR")
    reference_mask: tuple[Path, ...] = setting(
        (), MASKS, "Mask of the reference: palette picture or mattes, one a character.", metavar="FILE"
    )
    driving_mask: tuple[Path, ...] = setting(
        (), MASKS, "Mask of the driving video: palette video or mattes, one a character.", metavar="FILE"
    )
    additional_reference_masks: tuple[Path, ...] = setting(
        (), MASKS, "Mask of an additional reference, in their order.", metavar="FILE", option="--additional-mask"
    )
    sam3: str | None = setting(
        None, MASKS, "Find characters with SAM3: its folder, its file or Hub repository.", metavar="WEIGHTS"
    )
    text: tuple[str, ...] = setting((), MASKS, "What SAM3 looks for; repeatable. Without it a person.")
    points: tuple[str, ...] = setting(
        (), MASKS, "A click in the driving video.", metavar="FRAME:CHARACTER:X,Y[:out]", option="--point"
    )
    boxes: tuple[str, ...] = setting(
        (), MASKS, "A box in the driving video.", metavar="FRAME:CHARACTER:X0,Y0,X1,Y1", option="--box"
    )
    reference_points: tuple[str, ...] = setting(
        (), MASKS, "A click in the reference.", metavar="CHARACTER:X,Y[:out]", option="--reference-point"
    )
    reference_boxes: tuple[str, ...] = setting(
        (), MASKS, "A box in the reference.", metavar="CHARACTER:X0,Y0,X1,Y1", option="--reference-box"
    )
    characters: int | None = setting(None, MASKS, "How many characters to expect.")
    fix_polarity: bool = setting(
        False, MASKS, "Repaint given masks whose background contradicts the mode instead of refusing them."
    )
    accept_mask: bool = setting(
        False, MASKS, "Take the masks that were found even where the segmenter is not sure of them; look at them."
    )
    bind: tuple[str, ...] = setting(
        (),
        MASKS,
        "left-to-right, area, first-appearance, driving:2=reference:1, or driving:1 alone (repeatable).",
        metavar="RULE",
    )
    reframe: Reframe = setting(
        Reframe.OFF, MASKS, "off or auto: rescale the reference to the driving character's size."
    )

    def __post_init__(self) -> None:
        values.convert_all(self, CONVERTERS)
        check_masks(self)

    @property
    def prompts(self) -> tuple[Prompts, Prompts]:
        """What the segmenter is told about the driving video and about the reference."""
        driving = self._prompts(self.points, self.boxes, still=False)
        return driving, self._prompts(self.reference_points, self.reference_boxes, still=True)

    def _prompts(self, points: tuple[str, ...], boxes: tuple[str, ...], *, still: bool) -> Prompts:
        asked = Prompts(
            text=self.text,
            points=tuple(parse_point(each, still=still) for each in points),
            boxes=tuple(parse_box(each, still=still) for each in boxes),
            characters=self.characters,
        )
        if asked.text or asked.placed or self.sam3 is None:
            return asked
        return Prompts(text=("person",), characters=self.characters)

    @property
    def input_files(self) -> list[tuple[str, Path]]:
        """(field name, path) of every given file: pictures, videos, masks."""
        return self._files()

    def _files(self) -> list[tuple[str, Path]]:
        named = [("reference", self.reference), ("driving", self.driving)]
        named += [("masks", self.masks)] if self.masks else []
        for name in ("additional_references", "additional_reference_masks", "reference_mask", "driving_mask"):
            named += [(name, path) for path in getattr(self, name)]
        return named

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], *, where: str = "the settings") -> Self:
        """Builds a request from named settings, refusing unknown names with the nearest known one."""
        known = [each.name for each in fields(cls)]
        settings = by_field(cls, settings, where)
        for name in settings:
            if name not in known:
                options = [values.option_of(cls, each)[2:].replace("-", "_") for each in known]
                near = difflib.get_close_matches(name, dict.fromkeys(known + options), n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."
                raise InputError(f"Unknown setting {short(name)} in {where}; {hint}")
        return cls(**settings)


def _written(parse: Callable[..., Any], *, still: bool) -> Callable[[str, Any], str]:
    """Text that stands for a point or a box, refused here and not when it is needed."""

    def convert(name: str, value: Any) -> str:
        parse(values.text(name, value), still=still)
        return value

    return convert


CONVERTERS: dict[str, values.Convert] = {
    "mode": lambda name, value: AnimationMode.parse(value),
    **dict.fromkeys(("reference", "driving"), values.path),
    "masks": values.optional(values.path),
    **dict.fromkeys(
        ("additional_references", "additional_reference_masks", "reference_mask", "driving_mask"),
        values.many(values.path),
    ),
    **dict.fromkeys(("height", "width"), values.optional(values.whole(16, 8192))),
    "fit": values.choice(Fit),
    "fps": values.optional(values.rate),
    "frames": values.optional(values.whole(1, 10_000_000)),
    "sam3": values.optional(values.text),
    **dict.fromkeys(("text", "bind"), values.many(values.text)),
    "points": values.many(_written(parse_point, still=False)),
    "boxes": values.many(_written(parse_box, still=False)),
    "reference_points": values.many(_written(parse_point, still=True)),
    "reference_boxes": values.many(_written(parse_box, still=True)),
    "characters": values.optional(values.whole(1, 100)),
    "fix_polarity": values.flag,
    "accept_mask": values.flag,
    "reframe": values.choice(Reframe),
}
MASK_PATHS = {
    "reference",
    "driving",
    "additional_references",
    "additional_reference_masks",
    "masks",
    "reference_mask",
    "driving_mask",
}


def check_masks(request: MaskRequest) -> None:
    """Refuses what contradicts itself among the settings about masks, and makes the weights' path absolute."""
    object.__setattr__(request, "sam3", request.sam3 and absolute_if_found(request.sam3))
    if request.masks and (request.reference_mask or request.driving_mask):
        raise InputError("'masks' (--masks) already names all masks; leave out --reference-mask and --driving-mask.")
    if request.masks and request.sam3:
        raise InputError("'masks' (--masks) already names all masks; leave out --sam3.")
    _refuse_unused(request)
    if request.additional_reference_masks and len(request.additional_reference_masks) != len(
        request.additional_references
    ):
        raise InputError(
            f"There are {len(request.additional_references)} additional references but {len(request.additional_reference_masks)} "
            "masks for them; give one each, in the same order, or none."
        )
    if request.sam3 is None and request.text:
        raise InputError("--text is for SAM3: name its weights with --sam3 FOLDER, FILE or HUB-NAME.")


def _refuse_unused(request: MaskRequest) -> None:
    """Refuses what would say how to find characters where masks that are given say who they are."""
    places = {"driving_mask": ("points", "boxes"), "reference_mask": ("reference_points", "reference_boxes")}
    everywhere = (*itertools.chain(*places.values()), "additional_reference_masks", "characters")
    looked_for: dict[str, tuple[str, ...]] = {**places, "masks": everywhere}
    for given, others in looked_for.items():
        if getattr(request, given) and (unused := [name for name in others if getattr(request, name)]):
            option, other = (values.option_of(type(request), name) for name in (given, unused[0]))
            raise InputError(
                f"{option} says who is where, so {other} has no use beside it: leave one or the other out."
            )


def check_files(request: MaskRequest) -> None:
    """Raises `InputError` naming the first input file that does not exist or cannot be read."""
    for name, path in request.input_files:
        if not path.exists():
            raise InputError(f"{values.label(type(request), name)}: there is no file {path}.")
        if not (path.is_file() or path.is_dir()):
            raise InputError(
                f"{values.label(type(request), name)}: {path} is a pipe or device, not a file; save it first."
            )
        if not os.access(path, os.R_OK):
            raise InputError(f"{values.label(type(request), name)}: {path} may not be read; check its permissions.")
    for name, path in (
        ("reference", request.reference),
        *(("additional_references", p) for p in request.additional_references),
    ):
        if path.is_dir():
            raise InputError(f"{values.label(type(request), name)}: {path} is a folder, not a picture.")
