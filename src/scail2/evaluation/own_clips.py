"""Studio-Bench's protocol on one's own clips: every clip is driven by itself, and what comes out is held against it.

The first frame is the reference, the clip (or a film beside it, a pose render say) the driving video, the clip the truth.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from scail2.errors import InputError
from scail2.evaluation.comparison import Interval, interval_of_means
from scail2.evaluation.metrics import psnr, ssim
from scail2.evaluation.networks import GivenNetworks
from scail2.files.ownership import Kind, claimed_file, is_document
from scail2.files.staging import atomic_file, set_aside
from scail2.modes import MODE_TRAITS, AnimationMode
from scail2.request.animation import AnimationRequest
from scail2.runs import RunDirectory
from scail2.runs.model import PipelineCache
from scail2.video import VideoReader
from scail2.video.images import is_film

Array = np.ndarray

REPORT = "report.json"
BENCHES = Kind("Studio-Bench evaluations", f"{REPORT} or runs of scail2 evaluate", lambda folder: _is_bench(folder))
MEASURES = Kind(
    "measures of one's own clips",
    "studio_bench of scail2 evaluate",
    lambda file: is_document(file, {"studio_bench", "clips", "settings"}),
)
_FILMS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".gif", ".webp", ".avi")
_ANIMATED = (".gif", ".webp")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_BEGUN = "clips.json"
_CHUNK = 16


def _is_bench(folder: Path) -> bool:
    return is_document(folder / _BEGUN, {"protocol", "clips"})


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnClip:
    """One clip and what lies beside it for it; None where nothing does."""

    name: str
    film: Path
    reference: Path | None = None
    driving: Path | None = None
    driving_mask: Path | None = None
    reference_mask: Path | None = None

    @property
    def inputs(self) -> list[Path]:
        """Every file that is read."""
        given = (self.film, self.reference, self.driving, self.driving_mask, self.reference_mask)
        return [path for path in given if path is not None]


def find_clips(folder: Path) -> list[OwnClip]:
    """The clips of a folder, by name, each with what `references/`, `driving/` and `masks/` have under the same name.

    Raises:
        InputError: there are none, two have one name, or something in these folders belongs to no clip.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder of clips.")
    films = _by_name(folder, _FILMS)
    if not films:
        raise InputError(f"{folder} holds no clips: put films ({', '.join(_FILMS)}) into it.")
    beside = {
        "reference": _by_name(folder / "references", _PICTURES),
        "driving": _by_name(folder / "driving", _FILMS),
        "driving_mask": _by_name(folder / "masks", {*_FILMS, *_PICTURES}, _moves),
        "reference_mask": _by_name(folder / "masks", {*_FILMS, *_PICTURES}, lambda path: not _moves(path)),
    }
    for found in beside.values():
        for name, path in found.items():
            if name not in films:
                raise InputError(f"{path} belongs to no clip: {folder} has no film called {name}.")
    return [
        OwnClip(name=name, film=film, **{what: found.get(name) for what, found in beside.items()})
        for name, film in sorted(films.items())
    ]


def _moves(path: Path) -> bool:
    """Whether a mask is of a film; animated pictures and still ones go by the same suffixes."""
    suffix = path.suffix.lower()
    return is_film(path) if suffix in _ANIMATED else suffix in _FILMS


def _by_name(
    folder: Path, suffixes: Collection[str], meant: Callable[[Path], bool] = lambda path: True
) -> dict[str, Path]:
    """Files of these kinds by their names; ``meant`` looks into a file, where its kind does not say what it is."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not meant(path):
            continue
        if path.stem in found:
            raise InputError(f"{path} and {found[path.stem].name} have one name: clips are told apart by their names.")
        found[path.stem] = path
    return found


@dataclass(frozen=True, slots=True)
class ClipScore:
    """One clip's measures by name, and how many frames they are over."""

    name: str
    frames: int
    measures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """All clips, the measures of the whole set, and the settings that repeat it."""

    clips: Sequence[ClipScore]
    whole: Mapping[str, float]
    settings: Mapping[str, Any]

    def means(self) -> dict[str, Interval]:
        """Mean over the clips and its 95 % interval (bootstrap over clips; of one clip there is none: low and high are nan)."""
        names = self.clips[0].measures
        return {name: interval_of_means([clip.measures[name] for clip in self.clips]) for name in names}

    def to_json(self) -> dict[str, Any]:
        """`{"studio_bench": {measure: mean, …, "intervals": {…}, "clips": N}, "clips": {name: {…}}, "settings": {…}}`."""
        means = self.means()
        return {
            "studio_bench": {
                **{name: value.mean for name, value in means.items()},
                **self.whole,
                "intervals": {
                    name: [None if v != v else v for v in (value.low, value.high)] for name, value in means.items()
                },
                "clips": len(self.clips),
            },
            "clips": {clip.name: {"frames": clip.frames, **clip.measures} for clip in self.clips},
            "settings": dict(self.settings),
        }

    def write(self, path: Path) -> None:
        """Writes the JSON; equal results give equal bytes."""
        with atomic_file(path) as file:
            file.write((json.dumps(self.to_json(), indent=1) + "\n").encode())

    def table(self) -> Table:
        """A row a clip, then the means."""
        names = list(self.clips[0].measures)
        table = Table(title=f"{len(self.clips)} clips, each driven by itself")
        table.add_column("clip", no_wrap=True)
        for name in ("frames", *names, *self.whole):
            table.add_column(name, justify="right")
        for clip in self.clips:
            table.add_row(clip.name, str(clip.frames), *(f"{clip.measures[name]:.3f}" for name in names))
        table.add_section()
        means = self.means()
        cells = [f"{means[name].mean:.3f}" for name in names] + [f"{value:.1f}" for value in self.whole.values()]
        table.add_row("mean", "", *cells)
        return table


def write_measures(report: BenchReport, file: Path) -> None:
    """Writes a report to a file of the user's choice; measures that were there move to `superseded/`.

    Raises:
        InputError: something else is there.
    """
    with claimed_file(file, MEASURES) as staging:
        report.write(staging.place)
        if staging.target.exists():
            set_aside(staging.target)
        staging.publish()


def self_driven_request(clip: OwnClip, place: Path, **settings: Any) -> AnimationRequest:
    """The run of a clip; its reference (and that one's mask, where the driving video is the clip) is written into ``place``."""
    driving = clip.driving or clip.film
    given: dict[str, Any] = {"driving": driving, "audio": False}
    given["reference"] = clip.reference or _first_frame(clip.film, place / f"{clip.name}.png")
    if clip.driving_mask is not None:
        given["driving_mask"] = (clip.driving_mask,)
    if clip.reference_mask is not None:
        given["reference_mask"] = (clip.reference_mask,)
    elif clip.driving_mask is not None and clip.reference is None and clip.driving is None:
        given["reference_mask"] = (_reference_mask(clip.driving_mask, place / f"{clip.name}.mask.png"),)
    return AnimationRequest(mode=AnimationMode.ANIMATION, output=place / f"{clip.name}.mkv", **(given | settings))


def _first_frame(film: Path, place: Path) -> Path:
    with VideoReader(film) as reader:
        return _written(reader.frames(0, 1)[0], place)


def _reference_mask(driving_mask: Path, place: Path) -> Path:
    """The first frame's mask as a reference's: the same colours on white."""
    with VideoReader(driving_mask, interpolation="nearest") as reader:
        mask = reader.frames(0, 1)[0].copy()
    mask[(mask <= 30).all(axis=-1)] = 255 if MODE_TRAITS[AnimationMode.ANIMATION].reference_background == "white" else 0
    return _written(mask, place)


def _written(picture: Array, place: Path) -> Path:
    with atomic_file(place) as file:
        Image.fromarray(picture).save(file, format="PNG")
    return place


def run_bench(
    clips: Sequence[OwnClip],
    place: Path,
    *,
    networks: GivenNetworks | None = None,
    observe: Callable[[ClipScore], None] | None = None,
    **settings: Any,
) -> BenchReport:
    """Renders and measures clips in a folder that the caller holds; what is rendered already is not rendered again.

    Args:
        settings: fields of `AnimationRequest` for every run (model, preset, seed, size, frames …).
        networks: LPIPS and FVD, where the user gives them.
        observe: called after every clip.

    Raises:
        InputError: a run is refused (no masks, a size that does not fit …).
    """
    with atomic_file(place / _BEGUN) as file:
        described = {"protocol": "studio-bench", "clips": [clip.name for clip in clips]}
        file.write((json.dumps(described, indent=1) + "\n").encode())
    cache, scores, features = PipelineCache(), [], []
    for clip in clips:
        folder = place / clip.name
        folder.mkdir(exist_ok=True)
        request = self_driven_request(clip, folder, **settings)
        output = RunDirectory.create(folder / f"{clip.name}.run", request).execute(cache)
        score, found = measure_film(output, clip, networks)
        scores.append(score)
        features += [] if found is None else [found]
        if observe is not None:
            observe(score)
    told = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    whole = {} if networks is None else networks.per_set(features)
    return BenchReport(clips=scores, whole=whole, settings={"protocol": "studio-bench", **told})


def measure_film(
    film: Path, clip: OwnClip, networks: GivenNetworks | None
) -> tuple[ClipScore, tuple[Array, Array] | None]:
    """A film against its clip at the film's size and rate, over the frames that both have; and features for FVD.

    PSNR and SSIM are of each frame, then the mean over frames.
    """
    with VideoReader(film) as made:
        size = (made.height, made.width)
        with VideoReader(clip.film, size=size, fps=made.fps) as true:
            count = min(len(made), len(true))
            sums: dict[str, float] = {}
            windows = []
            for start in range(0, count, _CHUNK):
                output, truth = (each.frames(start, min(count, start + _CHUNK)) for each in (made, true))
                for name, value in _frame_sums(output, truth, networks).items():
                    sums[name] = sums.get(name, 0.0) + value
                if networks is not None and networks.video_features is not None:
                    windows.append((output, truth))
    score = ClipScore(clip.name, count, {name: value / count for name, value in sums.items()})
    if not windows or networks is None:
        return score, None
    return score, networks.features(*(np.concatenate([each[side] for each in windows]) for side in (0, 1)))


def _frame_sums(output: Array, truth: Array, networks: GivenNetworks | None) -> dict[str, float]:
    pairs = [(output[n : n + 1], truth[n : n + 1]) for n in range(len(output))]
    sums = {"ssim": sum(ssim(*pair) for pair in pairs), "psnr": sum(psnr(*pair) for pair in pairs)}
    learned = {} if networks is None else networks.per_clip(output, truth)
    return sums | {name: value * len(output) for name, value in learned.items()}
