"""`VideoSegmenter` for real people, without any download: the extra `people`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from scail2.errors import InputError
from scail2.perception.binding import left_to_right
from scail2.perception.segmenters.detail import in_detail, mean_of_blocks
from scail2.perception.segmenters.people.network import OUTSIDE, PoseNetwork, placed
from scail2.perception.segmenters.people.places import Person, PlaceFinder
from scail2.perception.segmenters.protocol import check_places
from scail2.perception.tracks import TrackedMasks, TrackRecorder
from scail2.request.masks import Prompts
from scail2.video import SizedFrames

# Below this mean confidence a clip is refused; measured in docs/masks.md.
REFUSE_BELOW = 0.55
# From this share of the picture's short side on, somebody is near enough for the network of near people.
_NEAR = 1.05
# Share of a piece of a near person's outline that has to agree with the body's for the piece to be theirs.
_AGREE = 0.3
# Logit from which the network of near people is believed.
_SEEN = 1.0
# Pieces smaller than this share of a person's outline are specks.
_SPECK = 0.04
_WINDOW = 8


class PeopleSegmenter:
    """Finds and follows people; understands boxes, points and a number of characters, but no text.

    Args:
        network: the networks; None loads those of the extra `people`.
        refuse_below: mean confidence of a clip below which it is refused; 0 never refuses.
    """

    name = "people"

    def __init__(self, network: PoseNetwork | None = None, *, refuse_below: float = REFUSE_BELOW):
        self.network, self.refuse_below = network or PoseNetwork(), refuse_below

    def segment(
        self,
        frames: SizedFrames,
        prompts: Prompts | None = None,
        *,
        directory: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> TrackedMasks:
        """See `VideoSegmenter.segment`. Raises `InputError` for text, where nobody is found, and below the confidence."""
        if prompts is not None and prompts.text:
            raise InputError("the segmenter for people understands no text: use SAM3 (--sam3 WEIGHTS) for it.")
        if prompts is not None:
            _check_placed(prompts, frames)
        seen, asked, factor = in_detail(frames, prompts)
        people = PlaceFinder(self.network, asked).find(seen, progress)
        still = len(frames) == 1
        if not any(person.squares for person in people):
            raise InputError(f"no person was found in {_what(still)}: {_advice(still)}.")
        recorder = TrackRecorder(directory, height=frames.height, width=frames.width)
        for start, labels, confidence in self._windows(seen, people, factor):
            recorder.add(labels, confidence)
            if progress:
                progress(len(frames) + start + len(labels), 2 * len(frames))
        found = recorder.finish(self.name, warnings=_told(people))
        self._judge(found, still)
        return self._ordered(found, prompts, directory)

    def _windows(
        self, frames: SizedFrames, people: list[Person], factor: int
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Labels uint8 (T, H, W) and confidence float (T, people), window by window as (first frame, …).

        Labels are ``factor`` times smaller than the frames.
        """

        def outlines(number: int) -> np.ndarray:
            return mean_of_blocks(self._logits(frames, people, number), factor)

        before: np.ndarray | None = None
        ahead: np.ndarray | None = outlines(0)
        for start in range(0, len(frames), _WINDOW):
            labels, sure = [], []
            for frame in range(start, min(start + _WINDOW, len(frames))):
                here = ahead
                assert here is not None  # there is a frame
                ahead = outlines(frame + 1) if frame + 1 < len(frames) else None
                smooth = _smoothed(before, here, ahead)
                labels.append(_labels(smooth))
                sure.append(_confidence(smooth, people, frame))
                before = here
            yield start, np.stack(labels), np.stack(sure)

    def _logits(self, frames: SizedFrames, people: list[Person], number: int) -> np.ndarray:
        """Logit of every person's outline in a frame, float32 (people, H, W)."""
        frame = frames.frames(number, number + 1)[0, ..., :3]
        height, width = frame.shape[:2]
        logits = np.full((len(people), height, width), OUTSIDE, np.float32)
        for index, person in enumerate(people):
            if number in person.squares:
                body = self.network.body(frame, person.squares[number])
                logits[index] = placed(body.outline, body.square, height, width)
        near = [i for i, each in enumerate(people) if _is_near(each, number, min(height, width))]
        return _with_near(logits, near, self.network.anyone(frame)) if near else logits

    def _judge(self, found: TrackedMasks, still: bool) -> None:
        confidence = float(np.mean([track.mean_confidence for track in found.tracks if track.first_frame >= 0] or [0]))
        if confidence < self.refuse_below:
            raise InputError(
                f"the segmenter for people does not trust its mask of {_what(still)} (confidence {confidence:.2f}, needed "
                f"{self.refuse_below:.2f}): {_advice(still)}."
            )

    def _ordered(self, found: TrackedMasks, prompts: Prompts | None, directory: Path | None) -> TrackedMasks:
        """Numbered from left to right, or as the user's prompts number them."""
        if prompts is not None and prompts.placed:
            return found
        return left_to_right(found, [track.number for track in found.tracks], directory)


def _check_placed(prompts: Prompts, frames: SizedFrames) -> None:
    check_places(prompts, frames)
    if any(not point.inside for point in prompts.points):
        raise InputError(
            "the segmenter for people looks where points are, and not at where somebody is not (…:out): give a box around them, "
            "or use SAM3 (--sam3 WEIGHTS) for it."
        )


def _is_near(person: Person, frame: int, short_side: int) -> bool:
    return frame in person.squares and person.squares[frame].side >= _NEAR * short_side


def _with_near(logits: np.ndarray, near: list[int], anyone: np.ndarray) -> np.ndarray:
    """Outlines of near people completed by what the network of near people sees.

    It sees wide clothes that the body network denies, and now and then a bright thing behind: a piece counts only where it
    hangs together with a body's outline and makes it no larger than that agreement allows.

    Args:
        logits: float32 (people, H, W).
        near: which of them are near.
        anyone: probability float32 (H, W).
    """
    seen = np.clip(np.log(np.clip(anyone, 1e-6, 1)) - np.log(np.clip(1 - anyone, 1e-6, 1)), -10, 10)
    owner = np.array(near)[logits[near].argmax(axis=0)]
    completed = logits.copy()
    for person in near:
        pieces, sizes = _pieces((seen > _SEEN) & (owner == person))
        agreed = np.bincount(pieces[logits[person] > 0], minlength=len(sizes)) >= _AGREE * sizes
        agreed[0] = False
        here = agreed[pieces]
        completed[person][here] = np.maximum(completed[person][here], seen[here])
    return completed


def _pieces(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected regions of a bool (H, W) mask numbered from 1, int32 (H, W), and the size of each, background first."""
    import cv2

    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return pieces, stats[:, cv2.CC_STAT_AREA]


def _smoothed(before: np.ndarray | None, here: np.ndarray, after: np.ndarray | None) -> np.ndarray:
    """Half of a frame's logits and a quarter of each neighbour's (the frame's own at the ends), clipped to ±4."""
    ends = [np.clip(each if each is not None else here, -4, 4) for each in (before, after)]
    return 0.5 * np.clip(here, -4, 4) + 0.25 * (ends[0] + ends[1])


def _labels(logits: np.ndarray) -> np.ndarray:
    """Label map uint8 (H, W): the likeliest person at each pixel, specks taken out."""
    labels = np.where(logits.max(axis=0) > 0, logits.argmax(axis=0) + 1, 0).astype(np.uint8)
    for number in range(1, len(logits) + 1):
        mask = labels == number
        if not mask.any():
            continue
        pieces, sizes = _pieces(mask)
        specks = sizes < _SPECK * sizes[1:].max()
        specks[0] = False
        labels[specks[pieces]] = 0
    return labels


def _confidence(logits: np.ndarray, people: list[Person], frame: int) -> np.ndarray:
    """Presence times the expected overlap of each person's outline, were its probabilities right: float32 (people,)."""
    probability = 1 / (1 + np.exp(-logits))
    inside = logits > 0
    kept = (probability * inside).sum(axis=(1, 2))
    union = inside.sum(axis=(1, 2)) + (probability * ~inside).sum(axis=(1, 2))
    # A bridged frame's outline is only as sure as a body's presence is at the least.
    presence = np.array([max(each.presence(frame), 0.3) if frame in each.squares else 0.0 for each in people])
    return (presence * kept / np.maximum(union, 1)).astype(np.float32)


def _told(people: list[Person]) -> list[str]:
    """One sentence for each person whose finding had gaps."""
    told = []
    for number, person in enumerate(people, start=1):
        if person.bridged:
            frames = sorted(person.bridged)
            told.append(
                f"person {number} was not found in {len(frames)} frames ({frames[0]} to {frames[-1]}); their places there lie "
                "between the findings before and after"
            )
    return told


def _what(still: bool) -> str:
    return "the reference picture" if still else "the driving video"


def _advice(still: bool) -> str:
    option = "--reference-mask FILE (or a picture with transparency)" if still else "--driving-mask FILE"
    return f"supply a mask with {option}, or let SAM3 find people: `scail2 masks --sam3 WEIGHTS --text person`"
