"""Sources to motion pairs: laid over each other in time, cut at scenes and to lengths of 4n + 1, checked."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from scail2.data.own import timing
from scail2.data.own.clips import Piece, made_clip, silhouettes
from scail2.data.own.material import Material, Progress, Reading, open_material, signals_of
from scail2.data.own.sources import OwnSource, Scene, to_json
from scail2.data.own.timing import Array, Signals, Timing
from scail2.data.own.verdicts import Discard, Limits, Measures, Reason, Refused, outline_change, refusal, share_of_gaps
from scail2.data.pairs import Clip, MotionPair, frames_of_all
from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.perception.segmenters.people.skeleton import SkeletonStyle

# Median difference, of 255, of the pixels outside all characters, up to which two videos show one scene.
_SAME_SCENE = 10.0
_SAMPLES = 8
# A caption for frames uint8 (T, H, W, 3), from whatever looks at them.
Captioner = Callable[[Array], str]


@dataclass(frozen=True, kw_only=True)
class Making:
    """How sources become clips.

    Attributes:
        frames: a clip has at most so many, 4n + 1.
        search: seconds either way in which the offset of a pair is looked for.
        poses: style of the pose renders of people; None: none are drawn.
        mask_pairs: also makes of every target a replacement pair whose driving video shows flat silhouettes.
    """

    reading: Reading = field(default_factory=Reading)
    limits: Limits = field(default_factory=Limits)
    frames: int = 81
    search: float = 30.0
    poses: SkeletonStyle | None = SkeletonStyle.OPENPOSE
    mask_pairs: bool = False

    def __post_init__(self) -> None:
        for name, value in (("frames", self.frames), ("shortest", self.limits.shortest)):
            if value < 5 or value % 4 != 1:
                raise InputError(f"--{name} is a number of the form 4n + 1 from 5 on (17, 81), not {value}.")
        if self.limits.shortest > self.frames:
            raise InputError(f"--shortest {self.limits.shortest} is more than --frames {self.frames}.")

    def describe(self) -> dict[str, Any]:
        """What decides what is made of a source."""
        own: dict[str, Any] = {"frames": self.frames, "search": self.search, "mask_pairs": self.mask_pairs}
        own["poses"] = None if self.poses is None else self.poses.value
        return {"reading": self.reading.describe(), "limits": asdict(self.limits), **own}


@dataclass(frozen=True, kw_only=True)
class Laid:
    """A source whose videos are laid over each other.

    Attributes:
        size: (height, width) of the clips; ``fps`` their rate.
        timing: of the driving video to the target; None for a single video.
        signal: what the timing was measured by: "joints" or "outlines".
        scene_difference: median difference of the pixels outside all characters, of 255; None for a single video.
        hashes: of the video files, by side.
    """

    source: OwnSource
    target: Material
    driving: Material | None
    signals: Signals | None
    size: tuple[int, int]
    fps: Fraction
    timing: Timing | None = None
    signal: str = ""
    scene_difference: float | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)

    @property
    def shared(self) -> bool:
        """Whether both show one scene."""
        if self.source.scene is not Scene.AUTO:
            return self.source.scene is Scene.SHARED
        return self.scene_difference is not None and self.scene_difference <= _SAME_SCENE

    def facts(self) -> dict[str, Any]:
        """What is told and kept about it."""
        facts: dict[str, Any] = {
            "size": list(self.size), "fps": str(self.fps), "characters": self.target.count,
            "masks": {m.side: m.masks.origin for m in (self.driving, self.target) if m is not None},
            "seconds": round(float(len(self.target.reader) / self.fps), 3),
        }  # fmt: skip
        if self.timing is not None:
            facts |= {
                "offset": round(float(self.timing.shift / self.fps), 4), "offset_given": self.source.offset is not None,
                "agreement": round(self.timing.agreement, 4), "other_offsets": round(self.timing.others, 4),
                "common_frames": self.timing.frames, "signal": self.signal, "order": list(self.timing.order),
                "scene": "shared" if self.shared else "own",
                "scene_difference": None if self.scene_difference is None else round(self.scene_difference, 2),
            }  # fmt: skip
        return facts


@dataclass(frozen=True, kw_only=True)
class MadeClip:
    """A pair that was made of a source, its key and what was measured."""

    key: str
    pair: MotionPair


def lay(source: OwnSource, making: Making, stack: ExitStack, progress: Progress | None = None) -> Laid:
    """Opens a source's videos and finds their offset; ``stack`` closes them.

    Raises:
        InputError: see `open_material`; another number of characters in the two; no overlap.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scail2-pairs-")))
    size = making.reading.size_of(source.target)
    materials = {}
    for side in source.videos:
        materials[side] = open_material(source, side, making.reading, size, folder / side, progress)
        stack.callback(materials[side].reader.close)
    target, driving = materials["target"], materials.get("driving")
    fps = making.reading.fps
    hashes = {side: source.hashes[path][:16] for side, path in source.videos.items()}
    if driving is None:
        return Laid(source=source, target=target, driving=None, signals=None, size=size, fps=fps, hashes=hashes)
    _check_characters(source, target, driving)
    kind, (ours, theirs) = signals_of([target, driving])
    signals = Signals(target=ours, driving=theirs, bound=None not in target.slots and target.slots == driving.slots)
    if source.offset is not None:
        found = timing.at(signals, round(source.offset * fps))
    else:
        found = timing.measure(signals, most=round(making.search * fps), fps=float(fps))
        if found.agreement < making.limits.least_agreement:
            raise Refused(
                Reason.MISALIGNED,
                f"{source.name}: at no offset do the motions agree by more than {found.agreement:.2f} (needed "
                f"{making.limits.least_agreement:g}): if it is one motion, say its --offset.",
            )
    return Laid(
        source=source, target=target, driving=driving, signals=signals, size=size, fps=fps, timing=found, signal=kind,
        scene_difference=_scene_difference(target, driving, found), hashes=hashes,
    )  # fmt: skip


def _check_characters(source: OwnSource, target: Material, driving: Material) -> None:
    if target.count != driving.count:
        raise Refused(
            Reason.COUNT,
            f"{source.name}: the driving video shows {driving.count} and the target {target.count} characters: both need the "
            "same number (say how many with --characters, or give masks).",
        )
    colours = [[slot.colour for slot in each.slots if slot is not None] for each in (target, driving)]
    if all(colours) and set(colours[0]) != set(colours[1]):
        raise Refused(
            Reason.COUNT,
            f"{source.name}: the masks do not show the same characters: {' and '.join(colours[0])}, {' and '.join(colours[1])}.",
        )


def _scene_difference(target: Material, driving: Material, found: Timing) -> float:
    start, stop = timing.overlap((len(target.reader), len(driving.reader)), found.shift)
    differences = []
    for number in np.unique(np.linspace(start, stop - 1, _SAMPLES).round().astype(int)).tolist():
        one = target.reader.frames(number, number + 1)[0].astype(int)
        other = driving.reader.frames(number + found.shift, number + found.shift + 1)[0].astype(int)
        outside = target.masks.labels.labels(number, number + 1)[0] == 0
        outside &= driving.masks.labels.labels(number + found.shift, number + found.shift + 1)[0] == 0
        if outside.any():
            differences.append(np.median(np.abs(one - other).mean(axis=-1)[outside]))
    return float(np.median(differences)) if differences else 255.0


def pieces(laid: Laid, making: Making) -> tuple[list[Piece], list[Discard]]:
    """The clips to be cut from a source, and what is left over: scenes and rests that are too short."""
    start, stop = 0, len(laid.target.reader)
    cuts = set(laid.target.cuts)
    if laid.driving is not None and laid.timing is not None:
        start, stop = timing.overlap((stop, len(laid.driving.reader)), laid.timing.shift)
        cuts |= {cut - laid.timing.shift for cut in laid.driving.cuts}
    edges = [start, *sorted(cut for cut in cuts if start < cut < stop), stop]
    found: list[Piece] = []
    left: list[Discard] = []
    for scene, scene_stop in pairwise(edges):
        place = scene
        while scene_stop - place >= making.limits.shortest:
            length = min(making.frames, scene_stop - place)
            length -= (length - 1) % 4
            found.append(Piece(start=place, stop=place + length, scene=scene))
            place += length
        # Up to three frames at a scene's end are rounding; more are worth a word.
        if scene_stop - place > 3:
            times = (float(each / laid.fps) for each in (place, scene_stop))
            left.append(_too_short(scene_stop - place, making.limits, *times))
    return found, left


def _too_short(frames: int, limits: Limits, start: float, stop: float) -> Discard:
    detail = f"{frames} frames between cuts or after the last whole clip (needed {limits.shortest})"
    return Discard(reason=Reason.TOO_SHORT, detail=detail, start=round(start, 3), stop=round(stop, 3))


def clips_of(laid: Laid, making: Making, captioner: Captioner | None = None) -> Iterator[MadeClip | Discard]:
    """Everything that a source gives: pairs, and the stretches that were thrown away."""
    found, left = pieces(laid, making)
    yield from left
    for piece in found:
        yield from _pairs_of(laid, piece, making, captioner)


def _pairs_of(laid: Laid, piece: Piece, making: Making, captioner: Captioner | None) -> Iterator[MadeClip | Discard]:
    start, stop = (round(float(each / laid.fps), 3) for each in (piece.start, piece.stop))

    def refused(reason: Reason, detail: str) -> Discard:
        return Discard(reason=reason, detail=detail, start=start, stop=stop)

    order: tuple[int, ...] = tuple(range(laid.target.count))
    target = made_clip(laid.source, laid.target, piece, order, making.poses)
    sides = [target]
    agreed = None
    if laid.driving is not None and laid.timing is not None and laid.signals is not None:
        agreed = timing.agreement_of(laid.signals, laid.timing, piece.start, piece.stop)
        moved = Piece(start=piece.start + laid.timing.shift, stop=piece.stop + laid.timing.shift, scene=0)
        sides.append(made_clip(laid.source, laid.driving, moved, laid.timing.order, making.poses))
    shown = [tuple(np.flatnonzero(side.tracks.any(axis=(2, 3)).mean(axis=1) >= 0.5).tolist()) for side in sides]
    if len(set(shown)) > 1 or not shown[0]:
        told = " and ".join(str(len(each)) for each in reversed(shown))
        yield refused(Reason.COUNT, f"{told} characters are there for half of the clip")
        return
    sides = [side.only(shown[0]) for side in sides]
    measures = [
        Measures(motion=outline_change(s.tracks), gaps=share_of_gaps(s.tracks), agreement=agreed if n == 0 else None)
        for n, s in enumerate(sides)
    ]
    if (why := refusal(measures, making.limits, given_offset=laid.source.offset is not None)) is not None:
        yield refused(*why)
        return
    if not len(frames_of_all(sides[0].tracks)):
        yield refused(Reason.NO_REFERENCE, "no frame of the target shows every character")
        return
    clips = [side.clip for side in sides]
    if captioner is not None and not clips[0].caption:
        clips[0] = replace(clips[0], caption=captioner(clips[0].frames))
    meta = _meta(laid, piece, measures)
    key = f"{laid.source.name}-{piece.start:06d}"
    yield MadeClip(key=key, pair=_pair(laid, clips, meta))
    if making.mask_pairs:
        bare = replace(clips[0], pose=None, pose_tracks=None, pose_joints=None)
        flat = MotionPair(
            synthetic=silhouettes(bare), real=bare, meta={**meta, "made": "mask"}, reversible=False,
            construction=_kind("replacement", clips[0]),
        )  # fmt: skip
        yield MadeClip(key=f"{key}-mask", pair=flat)


def _pair(laid: Laid, clips: list[Clip], meta: dict[str, Any]) -> MotionPair:
    target = clips[0]
    if len(clips) > 1:
        construction = _kind("replacement" if laid.shared else "animation", target)
        return MotionPair(synthetic=clips[1], real=target, construction=construction, meta={**meta, "made": "pair"})
    construction = SampleKind.SELF_DRIVEN if target.pose is None else _kind("pose", target)
    return MotionPair(synthetic=target, real=target, construction=construction, meta={**meta, "made": "single"})


def _kind(sort: str, clip: Clip) -> SampleKind:
    return SampleKind(f"{sort}_{'multi' if len(clip.tracks) > 1 else 'single'}")


def _meta(laid: Laid, piece: Piece, measures: list[Measures]) -> dict[str, Any]:
    meta = {
        **to_json(laid.source),
        "hashes": dict(laid.hashes),
        "start": round(float((piece.start - piece.scene) / laid.fps), 3),
        "fps": str(laid.fps),
        "place": [piece.start, piece.stop],
        "measures": {side: each.to_json() for side, each in zip(("target", "driving"), measures, strict=False)},
    }
    if laid.timing is not None:
        meta["offset"] = round(float(laid.timing.shift / laid.fps), 4)
    return meta
