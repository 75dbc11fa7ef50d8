"""How good the embedded segmenter is on puppets it has never seen, and how its confidence behaves elsewhere."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path

import numpy as np

from scail2.errors import InputError
from scail2.perception.segmenters.embedded import REFUSE_BELOW, EmbeddedSegmenter
from scail2.puppets import (
    Performance,
    PuppetClip,
    PuppetDomain,
    Split,
    render,
    sample_camera,
    sample_character,
    sample_motion,
    sample_placements,
    sample_scene,
)
from scail2.training.segmenter.data import drawn_together
from scail2.video import ArrayFrames, SizedFrames, VideoReader

CLIP_FRAMES = 17


@dataclass(frozen=True, kw_only=True)
class SegmentationScore:
    """Means over clips.

    Attributes:
        clips: how many clips.
        foreground_iou: all characters together, over all frames of a clip.
        character_iou: each character against the track that fits it best, one to one; a missed one counts 0.
        right_count: share of clips with as many tracks as characters.
        confidence, lowest_confidence: of the clips.
        refused: share of clips below the stated confidence.
    """

    clips: int
    foreground_iou: float
    character_iou: float
    right_count: float
    confidence: float
    lowest_confidence: float
    refused: float


def unseen_clip(
    domain: PuppetDomain, index: int, count: int, *, frames: int = CLIP_FRAMES, together: bool = False
) -> PuppetClip:
    """Clip number `index` of the test split: 128 x 128 pixels at 16 fps, with `count` characters; `together` in contact."""
    split = Split.TEST
    places = sample_placements(split, index, domain, count=count)
    if together:
        places = drawn_together(places, np.random.default_rng([list(Split).index(split), index]))
    cast = [
        Performance(
            character=sample_character(split, 3 * index + number, domain),
            motion=sample_motion(split, 3 * index + number, domain),
            placement=place,
        )
        for number, place in enumerate(places)
    ]
    scene, camera = sample_scene(split, index, domain), sample_camera(split, index, domain)
    return render(cast, scene, frames=frames, height=128, width=128, camera=camera)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two bool arrays; 1 when both are empty."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def character_ious(truth: np.ndarray, labels: np.ndarray, tracks: int) -> list[float]:
    """IoU of each character of bool (S, T, H, W) with its track in uint8 (T, H, W), by the best one-to-one pairing."""
    table = np.array([[iou(mask, labels == number) for number in range(1, tracks + 1)] for mask in truth])
    table = np.pad(table, ((0, 0), (0, max(0, len(truth) - tracks))))
    columns = range(table.shape[1])
    return max(([table[s, c] for s, c in enumerate(chosen)] for chosen in permutations(columns, len(truth))), key=sum)


def score(segmenter: EmbeddedSegmenter, clips: Sequence[PuppetClip]) -> SegmentationScore:
    """Runs the segmenter over rendered clips; nothing is refused while measuring."""
    open_minded = EmbeddedSegmenter(segmenter.network, segmenter.familiarity, refuse_below=0.0)
    foreground, characters, counts, confidence = [], [], [], []
    for clip in clips:
        truth = clip.masks[clip.masks.any(axis=(1, 2, 3))]
        try:
            found = open_minded.segment(ArrayFrames(clip.frames))
        except InputError:  # nobody found at all
            foreground.append(0.0)
            characters += [0.0] * len(truth)
            counts.append(False)
            confidence.append(0.0)
            continue
        labels = found.labels.labels(0, len(found))
        foreground.append(iou(np.asarray(truth.any(axis=0)), labels > 0))
        characters += character_ious(truth, labels, min(len(found.tracks), 6))
        counts.append(len(found.tracks) == len(truth))
        confidence.append(clip_confidence(open_minded, ArrayFrames(clip.frames)))
    return SegmentationScore(
        clips=len(clips),
        foreground_iou=float(np.mean(foreground)),
        character_iou=float(np.mean(characters)),
        right_count=float(np.mean(counts)),
        confidence=float(np.mean(confidence)),
        lowest_confidence=float(np.min(confidence)),
        refused=float(np.mean(np.array(confidence) < REFUSE_BELOW)),
    )


def clip_confidence(segmenter: EmbeddedSegmenter, frames: SizedFrames) -> float:
    """Mean confidence of a clip, as the refusal uses it."""
    return float(np.mean(segmenter.confidences(frames)))


def evaluate(
    segmenter: EmbeddedSegmenter, domains: Sequence[PuppetDomain], *, clips: int, media: Path | None = None
) -> dict[str, dict]:
    """Scores on the test split of each domain with one, two and two touching characters, and confidence on other footage.

    Args:
        clips: per domain and number of characters.
        media: a folder of videos that show no puppets; each is read at 128 x 128.
    """
    result: dict[str, dict] = {"puppets": {}, "elsewhere": {}}
    for domain in domains:
        for name, count, together in (("1", 1, False), ("2", 2, False), ("2_touching", 2, True)):
            rendered = [unseen_clip(domain, index, count, together=together) for index in range(clips)]
            result["puppets"][f"{domain.name}_{name}"] = asdict(score(segmenter, rendered))
    for path in sorted(media.glob("*.mp4")) if media else ():
        frames = VideoReader(path, size=(128, 128))
        result["elsewhere"][path.stem] = clip_confidence(segmenter, frames)
    noise = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
    result["elsewhere"]["uniform noise"] = clip_confidence(segmenter, ArrayFrames(noise))
    return result
