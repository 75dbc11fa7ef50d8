"""Preference pairs from one's own videos: somebody rendered, or repaired, the same thing twice and says which is better."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scail2.data.pairs import SIDE_STEP, Array, Still
from scail2.data.preferences import REGIONS, PreferencePair
from scail2.errors import InputError
from scail2.files.documents import load_json
from scail2.masks import BindingSlot
from scail2.modes import MODE_TRAITS, AnimationMode
from scail2.perception.segmenters.given import GivenMasks
from scail2.perception.tracks import TrackedMasks
from scail2.video import ArrayFrames, VideoReader, read_image
from scail2.video.resize import resize_cover

# Sides of clips: what every model's grid divides.
_SIDE = 32
_NEEDED = ("driving", "driving mask", "preferred", "rejected", "reference mask")
_FILES = (*_NEEDED, "reference", "boxes")


@dataclass(frozen=True, kw_only=True)
class OwnPreferences:
    """One pair for each set of files.

    Attributes:
        files: for each pair its name and, by role (`driving`, `driving mask`, `preferred`, `rejected`, `reference mask`, and
            maybe `reference` and `boxes`), the file.
        frames: a clip is the beginning of its videos, at most so many frames.
        size: height and width of the clips; None is that of the preferred video, down to multiples of 32.
        mode: which masks are right.
    """

    files: tuple[tuple[str, Mapping[str, Path]], ...]
    frames: int = 81
    size: tuple[int, int] | None = None
    caption: str = ""
    mode: AnimationMode = AnimationMode.ANIMATION

    @classmethod
    def find(cls, given: Mapping[str, Path], **settings: Any) -> "OwnPreferences":
        """Puts files together: those in folders by their name without ending, single ones go with every pair.

        Raises:
            InputError: a role is missing, a folder lacks a file that another has, or two files claim one name.
        """
        missing = [name for name in _NEEDED if name not in given]
        if missing:
            raise InputError(
                f"Own preference pairs take --{', --'.join(name.replace(' ', '-') for name in _NEEDED)}; missing: "
                f"{', '.join(missing)}. Masks are made by scail2 masks."
            )
        found = {role: _named_files(path) for role, path in given.items()}
        names = found["preferred"]
        if names is None:
            names = {given["preferred"].stem: given["preferred"]}
        if not names:
            raise InputError(f"{given['preferred']} holds no files.")
        _refuse_left_over(given, found, names)
        pairs = []
        for name in sorted(names):
            absent = [role for role, each in found.items() if each is not None and name not in each]
            if absent:
                raise InputError(
                    f"{given[absent[0]]} holds no {absent[0]} for {name}: all files of a pair have one name."
                )
            pairs.append((name, {role: given[role] if each is None else each[name] for role, each in found.items()}))
        settings["mode"] = AnimationMode.parse(settings.get("mode", AnimationMode.ANIMATION))
        _check_shape(settings.get("frames", cls.frames), settings.get("size"))
        return cls(files=tuple(pairs), **settings)

    def __len__(self) -> int:
        return len(self.files)

    def describe(self) -> dict[str, Any]:
        """Names and sizes of the files, and all settings."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "files"}
        listed = {name: {role: [file.name, _bytes(file)] for role, file in files.items()} for name, files in self.files}
        return {"own preferences": own | {"mode": self.mode.value}, "files": listed}

    def preference(self, index: int, generator: np.random.Generator) -> PreferencePair:
        """Pair `index`; nothing is drawn.

        Raises:
            InputError: the files do not fit each other, masks contradict the mode, or nobody's hands are found.
        """
        name, files = self.files[index]
        size = self.size or _own_size(files["preferred"])
        preferred = VideoReader(files["preferred"], size=size)
        rejected, driving = (VideoReader(files[role], size=size, fps=preferred.fps) for role in ("rejected", "driving"))
        counts = {"preferred": len(preferred), "rejected": len(rejected), "driving": len(driving)}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{role} {count}" for role, count in counts.items())
            raise InputError(f"The videos of {name} differ in length at {float(preferred.fps):g} fps (frames: {told}).")
        frames = min(len(preferred), self.frames)
        frames -= (frames - 1) % 4
        moving = _moving(files["driving mask"], driving)
        tracks, slots = _shown(moving, frames)
        still, still_slots, still_background = self._reference(files, preferred, size)
        if slots != still_slots:
            raise InputError(
                f"The masks of {name} do not show the same characters: {_colours(slots)}, {_colours(still_slots)}."
            )
        self._check_masks(name, still_background, moving.background)
        boxes = self._boxes(name, files, {"preferred": preferred, "rejected": rejected}, frames)
        return PreferencePair(
            mode=self.mode,
            driving=driving.frames(0, frames),
            driving_tracks=tracks,
            reference=still,
            preferred=preferred.frames(0, frames),
            rejected=rejected.frames(0, frames),
            preferred_boxes=boxes["preferred"],
            rejected_boxes=boxes["rejected"],
            caption=self.caption,
            meta={"source": "own", "name": name},
        )

    def _reference(
        self, files: Mapping[str, Path], preferred: VideoReader, size: tuple[int, int]
    ) -> tuple[Still, list[BindingSlot], str | None]:
        if "reference" in files:
            picture = read_image(files["reference"])[..., :3]
            frame, original = resize_cover(picture[None], *size)[0], picture.shape[:2]
        else:
            info = preferred.source_info
            frame, original = preferred.frames(0, 1)[0], (info.height, info.width)
        masks = GivenMasks([files["reference mask"]], original=original).segment(ArrayFrames(frame[None]))
        tracks, slots = _shown(masks, 1)
        return Still(frame=frame, tracks=tracks[:, 0]), slots, masks.background

    def _check_masks(self, name: str, reference: str | None, driving: str | None) -> None:
        """Refuses masks that are painted for the other mode: a forgotten --mode would teach the wrong one."""
        traits = MODE_TRAITS[self.mode]
        wanted = {"reference": traits.reference_background, "driving": traits.driving_background}
        for side, seen in {"reference": reference, "driving": driving}.items():
            if seen is not None and seen != wanted[side]:
                raise InputError(
                    f"The {side} mask of {name} has a {seen} background, but {self.mode.value} needs {wanted[side]}: give the "
                    "--mode that it was painted for, or masks of this one."
                )

    def _boxes(
        self, name: str, files: Mapping[str, Path], videos: Mapping[str, VideoReader], frames: int
    ) -> dict[str, dict[str, Array]]:
        if "boxes" in files:
            return _given_boxes(files["boxes"], videos, frames)
        boxes = {side: found_boxes(ArrayFrames(video.frames(0, frames))) for side, video in videos.items()}
        for side, found in boxes.items():
            if not found:
                raise InputError(f"Nobody was found in the {side} video of {name}; give --boxes.")
        return boxes


def _check_shape(frames: int, size: tuple[int, int] | None) -> None:
    """Refuses lengths and sizes that no model takes, before anything is read."""
    if frames % 4 != 1:
        raise InputError(f"Clips have 4k+1 frames, not {frames}: take {4 * round((frames - 1) / 4) + 1}.")
    if size is not None and any(side % SIDE_STEP for side in size):
        told = "x".join(str(max(SIDE_STEP, round(side / SIDE_STEP) * SIDE_STEP)) for side in size)
        raise InputError(
            f"Sides of clips are multiples of {SIDE_STEP}, not {size[0]}x{size[1]} (height x width): take {told}."
        )


def _named_files(path: Path) -> dict[str, Path] | None:
    """File by name without ending of a folder of files; None for a file, and for a folder of pictures that is a video."""
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if not path.is_dir():
        return None
    named: dict[str, Path] = {}
    for each in sorted(path.iterdir()):
        if each.name.startswith("."):
            continue
        if named.setdefault(each.stem, each) is not each:
            raise InputError(f"{named[each.stem]} and {each.name} have one name: which of them is meant?")
    return named


def _refuse_left_over(
    given: Mapping[str, Path], found: Mapping[str, Mapping[str, Path] | None], names: Mapping[str, Path]
) -> None:
    """Refuses folders with files that no preferred video has the name of: nothing would be made of them."""
    for role, each in found.items():
        if left := sorted(set(each or ()) - set(names)):
            count = "a file" if len(left) == 1 else f"{len(left)} files"
            raise InputError(
                f"{given[role]} ({role}) holds {count} without a preferred video of that name in {given['preferred']}, such as "
                f"{each[left[0]].name if each else left[0]}: all files of a pair have one name."
            )


def _bytes(path: Path) -> int:
    return path.stat().st_size


def _own_size(video: Path) -> tuple[int, int]:
    reader = VideoReader(video)
    height, width = (side - side % _SIDE for side in (reader.height, reader.width))
    if not height or not width:
        raise InputError(f"{video} is {reader.width}x{reader.height}: clips have sides of at least {_SIDE} pixels.")
    return height, width


def _moving(path: Path, driving: VideoReader) -> TrackedMasks:
    info = driving.source_info
    return GivenMasks([path], original=(info.height, info.width), fps=driving.fps).segment(driving)


def _shown(masks: TrackedMasks, frames: int) -> tuple[Array, list[BindingSlot]]:
    """The characters that the first frames show, bool (S, T, H, W), and their colours."""
    tracks = masks.masks(0, frames)
    shown = np.flatnonzero(tracks.any(axis=(1, 2, 3)))
    slots = [slot for number in shown if (slot := masks.tracks[number].slot) is not None]
    if len(slots) < len(shown):
        raise InputError("Masks of own preference pairs are palette masks, as scail2 masks writes them, not mattes.")
    return tracks[shown], slots


def _colours(slots: list[BindingSlot]) -> str:
    return " and ".join(slot.name.lower() for slot in slots) or "nobody"


def _given_boxes(path: Path, videos: Mapping[str, VideoReader], frames: int) -> dict[str, dict[str, Array]]:
    """Boxes of a JSON file, given in pixels of the video files: `{"preferred": {"hands": [[[x0, y0, x1, y1], …], …]}, …}`."""
    given = load_json(path, dict[str, dict[str, list]])
    boxes: dict[str, dict[str, Array]] = {}
    for side, video in videos.items():
        if side not in given:
            raise InputError(f"{path} gives no boxes for the {side} video.")
        info = video.source_info
        scale = max(video.height / info.height, video.width / info.width)
        middle, goal = (np.array([w, h] * 2) / 2 for w, h in ((info.width, info.height), (video.width, video.height)))
        boxes[side] = {}
        for name, each in given[side].items():
            try:
                array = np.asarray(each, np.float32)
            except ValueError:
                array = np.zeros(0, np.float32)
            if name not in REGIONS or array.ndim != 3 or array.shape[1] < frames or array.shape[2] != 4:
                raise InputError(
                    f"{path}: {side}.{name} must be boxes of {', '.join(REGIONS)}: for each box a list of x0, y0, x1, y1 for "
                    f"each of the {frames} frames."
                )
            boxes[side][name] = ((array[:, :frames] - middle) * scale + goal).astype(np.float32)
    return boxes


def found_boxes(clip: ArrayFrames) -> dict[str, Array]:
    """Boxes around the hands, faces and feet of everybody that the pose network finds; nothing where it finds nobody."""
    from scail2.perception.segmenters.people.joints import FACE, FEET, HANDS, find_joints

    joints = find_joints(clip)
    if not len(joints.places):
        return {}
    groups = {"hands": tuple(HANDS.values()), "faces": (FACE,), "feet": tuple(FEET.values())}
    return {name: np.concatenate([joints.boxes(group) for group in each]) for name, each in groups.items()}
