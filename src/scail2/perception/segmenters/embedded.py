"""The default when no mask is given: the small network that ships with the package.

It knows drawn puppets, and says so: every frame gets a confidence, and a clip below `REFUSE_BELOW` is refused with a
sentence on how to supply a mask. Confidence is the product of how familiar the picture is (a learnt judgement and the
distance of the network's features from those of its training world, whichever is lower) and how sure the outline is
(expected intersection over union under the network's own probabilities).
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from scail2.devices import has_native_bf16
from scail2.errors import InputError
from scail2.perception.binding import left_to_right
from scail2.perception.segmenters.following import Follower
from scail2.perception.segmenters.network import STRIDE, Familiarity, SegmentationNetwork, for_inference, load_network
from scail2.perception.segmenters.regions import colour_regions, vote
from scail2.perception.tracks import TrackedMasks, TrackRecorder
from scail2.request.masks import Prompts
from scail2.video import SizedFrames

WEIGHTS = Path(__file__).parents[2] / "assets" / "segmenter.safetensors"
# A clip whose mean confidence is lower is refused; measured in docs/masks.md.
REFUSE_BELOW = 0.62
# Characters smaller than this share of the picture are not reported.
SMALLEST_SHARE = 0.004
# A track seen in fewer frames than this (and less than a tenth of the clip) is a mistake of single frames.
_SHORTEST_TRACK = 3
# Votes for body centres are counted on a grid of this many pixels and have to be this far apart, in short sides.
_VOTE_CELL = 2
_CENTRE_GAP = 0.14
# Share of the strongest centre's votes that a second centre needs.
_CENTRE_VOTES = 0.12
_WINDOW = 8


def embedded_segmenter_path() -> Path:
    """Where the shipped weights are."""
    return WEIGHTS


class EmbeddedSegmenter:
    """`VideoSegmenter` over the small network. Make one with `load`.

    Args:
        network, familiarity: from `load_network`.
        refuse_below: mean confidence of a clip below which it is refused; 0 never refuses.
    """

    name = "embedded"

    def __init__(self, network: SegmentationNetwork, familiarity: Familiarity, *, refuse_below: float = REFUSE_BELOW):
        self.network, self.familiarity, self.refuse_below = network, familiarity, refuse_below

    @classmethod
    def load(cls, path: str | Path | None = None, *, refuse_below: float = REFUSE_BELOW) -> "EmbeddedSegmenter":
        """Loads weights written by ``python -m scail2.training.segmenter.train``; None for those in the package."""
        path = Path(path) if path is not None else WEIGHTS
        if not path.exists():
            raise InputError(f"the segmentation network {path} is missing: supply masks with --driving-mask.")
        network, familiarity = load_network(path)
        return cls(for_inference(network), familiarity, refuse_below=refuse_below)

    def segment(
        self,
        frames: SizedFrames,
        prompts: Prompts | None = None,
        *,
        directory: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> TrackedMasks:
        """Finds and follows the puppets of a clip. Raises `InputError` below the confidence or where nobody is found."""
        if prompts is not None and (prompts.text or prompts.placed):
            raise InputError(
                "the embedded segmenter understands no text, points or boxes: use SAM3 (--sam3 WEIGHTS) for these."
            )
        limit = prompts.characters if prompts is not None else None
        follower = Follower(limit)
        recorder = TrackRecorder(directory, height=frames.height, width=frames.width)
        sure: list[float] = []
        for start in range(0, len(frames), _WINDOW):
            stop = min(start + _WINDOW, len(frames))
            labels, confidence = self._window(frames.frames(start, stop)[..., :3], follower)
            sure += confidence.tolist()
            recorder.add(labels, np.repeat(confidence[:, None], max(follower.count, 1), axis=1))
            if progress:
                progress(stop, len(frames))
        found = recorder.finish(self.name)
        self._judge(found, float(np.mean(sure)), still=len(frames) == 1)
        return _cleaned(found, directory)

    def confidences(self, frames: SizedFrames) -> np.ndarray:
        """Confidence of every frame, float (T,), without following anybody or refusing."""
        parts = []
        for start in range(0, len(frames), _WINDOW):
            rgb = frames.frames(start, min(start + _WINDOW, len(frames)))[..., :3]
            parts.append(self._outputs(rgb)[2])
        return np.concatenate(parts)

    @torch.inference_mode()
    def _outputs(self, rgb: np.ndarray) -> tuple[np.ndarray, torch.Tensor, np.ndarray, np.ndarray]:
        """Pictures uint8 (T, h, w, 3) at the network's size, foreground probability (T, h, w), confidence (T,), and
        centre offsets (T, 2, h, w), of frames uint8 (T, H, W, 3)."""
        pictures, inner = self._prepared(rgb)
        # Halved in time where bfloat16 is multiplied as it is; one pixel of 4000 changes sides.
        fast = has_native_bf16(pictures.device)
        with torch.autocast("cpu", dtype=torch.bfloat16) if fast else contextlib.nullcontext():
            out = self.network(pictures.contiguous(memory_format=torch.channels_last))
        foreground, judged = out.foreground.float(), out.familiarity.float()
        probability = torch.sigmoid(foreground)[:, : inner[0], : inner[1]]
        familiar = torch.minimum(torch.sigmoid(judged), self.familiarity.probability(out.signature))
        small = ((pictures[:, :, : inner[0], : inner[1]] + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        centre = out.centre[:, :, : inner[0], : inner[1]].float().numpy()
        confidence = (familiar * expected_overlap(probability)).numpy()
        agreed = [vote(own.numpy(), colour_regions(rgb)) for own, rgb in zip(probability, small, strict=True)]
        return small, torch.from_numpy(np.stack(agreed)), confidence, centre

    def _judge(self, found: TrackedMasks, confidence: float, *, still: bool) -> None:
        option = "--reference-mask FILE (or a picture with transparency)" if still else "--driving-mask FILE"
        what = "the reference picture" if still else "the driving video"
        advice = (
            f"supply one with {option}, or let SAM3 find people with `scail2 masks --sam3 WEIGHTS --text person` and pass its "
            "folder with --masks"
        )
        if confidence < self.refuse_below:
            raise InputError(
                f"the embedded segmenter knows drawn puppets and does not trust its mask of {what} (confidence "
                f"{confidence:.2f}, needed {self.refuse_below:.2f}): {advice}."
            )
        if not any(track.first_frame >= 0 for track in found.tracks):
            raise InputError(f"the embedded segmenter found no character in {what}: {advice}.")

    def _window(self, rgb: np.ndarray, follower: Follower) -> tuple[np.ndarray, np.ndarray]:
        """Labels uint8 (T, H, W) and confidence float (T,) of frames uint8 (T, H, W, 3)."""
        small, probability, confidence, centre = self._outputs(rgb)
        labels = []
        for frame in range(len(rgb)):
            instances = group_instances(probability[frame].numpy(), centre[frame], self.network.config.short_side)
            labels.append(follower.follow(small[frame], instances))
        return _enlarged(np.stack(labels), probability, rgb.shape[1:3]), confidence

    def _prepared(self, rgb: np.ndarray) -> tuple[torch.Tensor, tuple[int, int]]:
        """Pictures float (T, 3, H', W') at the network's short side, padded to its stride, and the unpadded size."""
        height, width = rgb.shape[1:3]
        scale = self.network.config.short_side / min(height, width)
        inner = max(STRIDE, round(height * scale)), max(STRIDE, round(width * scale))
        pictures = torch.cat([_resized(frame, inner) for frame in rgb])  # one by one: large frames fill the memory
        pad = -inner[1] % STRIDE, -inner[0] % STRIDE
        return F.pad(pictures.clamp(-1, 1), (0, pad[0], 0, pad[1]), mode="replicate"), inner


def expected_overlap(probability: torch.Tensor) -> torch.Tensor:
    """Expected intersection over union (B,) of the mask p > 1/2 with the truth, were p (B, H, W) right."""
    inside = probability > 0.5
    kept = (probability * inside).sum(dim=(1, 2))
    union = inside.sum(dim=(1, 2)) + (probability * ~inside).sum(dim=(1, 2))
    # An empty picture is as sure as its emptiest reading: one pixel more or less.
    return (kept + 1) / (union + 1)


def group_instances(probability: np.ndarray, centre: np.ndarray, short_side: int) -> np.ndarray:
    """Instances from votes: every foreground pixel votes for its body centre; peaks of the votes are characters.

    Args:
        probability: float (H, W).
        centre: float (2, H, W), x and y offsets in short sides.

    Returns:
        int32 (H, W), 0 background.
    """
    height, width = probability.shape
    ys, xs = np.nonzero(probability > 0.5)
    instances = np.zeros((height, width), np.int32)
    if len(ys) < SMALLEST_SHARE * height * width:
        return instances
    vote_x = (xs + centre[0, ys, xs] * short_side).clip(0, width - 1)
    vote_y = (ys + centre[1, ys, xs] * short_side).clip(0, height - 1)
    peaks = _peaks(vote_x, vote_y, (height, width), _CENTRE_GAP * short_side)
    distance = (vote_x[:, None] - peaks[None, :, 0]) ** 2 + (vote_y[:, None] - peaks[None, :, 1]) ** 2
    instances[ys, xs] = distance.argmin(axis=1) + 1
    return instances


def _peaks(vote_x: np.ndarray, vote_y: np.ndarray, size: tuple[int, int], gap: float) -> np.ndarray:
    """Centres (K, 2) as x, y: the strongest places of the blurred vote count that are at least `gap` apart."""
    rows, columns = -(-size[0] // _VOTE_CELL), -(-size[1] // _VOTE_CELL)
    cell = (vote_y // _VOTE_CELL).astype(int) * columns + (vote_x // _VOTE_CELL).astype(int)
    votes = torch.from_numpy(np.bincount(cell, minlength=rows * columns).reshape(1, 1, rows, columns)).float()
    blurred = F.avg_pool2d(votes, 5, 1, padding=2, count_include_pad=True)[0, 0].numpy()
    peaks: list[tuple[float, float]] = []
    strongest = blurred.max()
    grid_y, grid_x = np.mgrid[:rows, :columns]
    while True:
        row, column = np.unravel_index(blurred.argmax(), blurred.shape)
        if blurred[row, column] < max(_CENTRE_VOTES * strongest, 1e-6):
            break
        peaks.append(((column + 0.5) * _VOTE_CELL, (row + 0.5) * _VOTE_CELL))
        near = (grid_y - row) ** 2 + (grid_x - column) ** 2 < (gap / _VOTE_CELL) ** 2
        blurred = np.where(near, 0, blurred)
    return np.array(peaks)


def _resized(frame: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """A frame uint8 (H, W, 3) as float (1, 3, H', W') from -1 to 1."""
    picture = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float() / 127.5 - 1
    if size == frame.shape[:2]:
        return picture
    return F.interpolate(picture, size=size, mode="bicubic", antialias=True, align_corners=False)


def _enlarged(labels: np.ndarray, probability: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Labels uint8 (T, h, w) at the frames' size: smooth outline from the probabilities, numbers from the nearest pixel."""
    if labels.shape[1:] == size:
        return labels
    small = torch.from_numpy(labels)[:, None].float()
    # Numbers spread a little over the outline, so that the smooth outline never meets an unnumbered pixel.
    spread = torch.where(small > 0, small, F.max_pool2d(small, 3, 1, padding=1))
    numbers = F.interpolate(spread, size=size, mode="nearest")[:, 0].byte().numpy()
    outline = F.interpolate(probability[:, None], size=size, mode="bilinear", align_corners=False)[:, 0].numpy() > 0.5
    return np.where(outline, numbers, 0).astype(np.uint8)


def _cleaned(found: TrackedMasks, directory: Path | None) -> TrackedMasks:
    """Without tracks of a few frames or a few pixels; the others numbered from left to right."""
    frames = len(found)
    smallest = SMALLEST_SHARE * found.height * found.width
    kept = [
        track.number
        for track in found.tracks
        if track.first_frame >= 0
        and (track.present.sum() >= min(_SHORTEST_TRACK, frames))
        and track.areas.max() >= smallest
    ]
    if not kept:
        kept = [max(found.tracks, key=lambda track: int(track.areas.sum())).number]
    return left_to_right(found, kept, directory)
