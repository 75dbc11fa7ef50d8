"""Where every person is through a clip: squares followed from frame to frame, in both directions, gaps bridged."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from scail2.perception.segmenters.people.network import Body, PoseNetwork, Square
from scail2.request.masks import Prompts
from scail2.video import SizedFrames

# The published graph's threshold: a lower presence is nobody.
PRESENT = 0.5
# Somebody seen in fewer frames (and in less than a tenth of the clip) is a mistake of single frames.
_SHORTEST = 3
# Part of the smaller coarse outline that two findings of one person share at least.
_SAME = 0.6
# Squares whose centres are nearer than this share of the smaller side, and of similar size, need no second look.
_SAME_CENTRE, _SAME_SIZE = 0.2, 1.5
# Somebody who turns up again within so many frames, nearer than this share of the square's side and of a similar size, is the
# same person: fast motion and small pictures lose people for a moment.
_LOST_FOR, _BACK_NEAR, _BACK_SIZE = 12, 0.5, 2.0
# Newcomers are looked for every so many frames, and whenever somebody is lost.
_LOOK_AROUND = 4
_WINDOW = 8
_NONE = np.zeros((0, 0), np.float32)


@dataclass
class Finding:
    """A person in one frame: the body without its outline, and the coarse outline bool (h, w)."""

    body: Body
    footprint: np.ndarray

    @classmethod
    def of(cls, body: Body, frame: np.ndarray) -> "Finding":
        """From a body found in a frame uint8 (H, W, 3)."""
        return cls(replace(body, outline=_NONE), body.footprint(*frame.shape[:2]))

    def same_person(self, other: "Finding") -> bool:
        """Whether two findings of the same or of neighbouring frames are one person: one outline lies in the other."""
        smaller = min(int(self.footprint.sum()), int(other.footprint.sum()))
        shared = int((self.footprint & other.footprint).sum())
        return shared > _SAME * max(smaller, 1) and not self.body.faces_apart(other.body)


@dataclass
class Person:
    """One person: where they were found, by frame.

    Attributes:
        squares: frame -> square.
        findings: frame -> what was found there.
        bridged: frames without a finding, between two with one; their squares lie on the way.
    """

    squares: dict[int, Square] = field(default_factory=dict)
    findings: dict[int, Finding] = field(default_factory=dict)
    bridged: set[int] = field(default_factory=set)

    def add(self, frame: int, found: Finding) -> None:
        """Takes a finding: the next square is the body's own."""
        self.squares[frame], self.findings[frame] = found.body.following, found

    def presence(self, frame: int) -> float:
        """Probability that the person is in a frame; 0 where it was not found."""
        return self.findings[frame].body.presence if frame in self.findings else 0.0

    def comes_back(self, frame: int, found: Finding) -> bool:
        """Whether a finding of a later frame may be this person, who was lost shortly before and not far from there."""
        last = max(self.findings)
        before, now = self.findings[last].body.following, found.body.following
        small, large = sorted((before.side, now.side))
        near = np.hypot(before.x - now.x, before.y - now.y) < _BACK_NEAR * large
        return bool(frame - last <= _LOST_FOR and near and large < _BACK_SIZE * small)

    def bridge(self) -> None:
        """Puts squares into the gaps between findings."""
        known = sorted(self.squares)
        for before, after in itertools.pairwise(known):
            for frame in range(before + 1, after):
                share = (frame - before) / (after - before)
                self.squares[frame] = self.squares[before].mixed(self.squares[after], share)
                self.bridged.add(frame)


class PlaceFinder:
    """Finds everybody's squares in a clip.

    Args:
        network: the two networks.
        prompts: boxes and points of the user; with any, only the characters they name are followed, in their numbers.
    """

    def __init__(self, network: PoseNetwork, prompts: Prompts | None = None):
        self.network = network
        self.prompts = prompts or Prompts()
        self.people: list[Person] = []

    def find(self, frames: SizedFrames, progress: Callable[[int, int], None] | None = None) -> list[Person]:
        """The people of a clip uint8 RGB, the largest first or as the prompts number them."""
        for number, frame in _forward(frames):
            self._step(number, frame)
            if progress:
                progress(number + 1, 2 * len(frames))
        self._backwards(frames)
        for person in self.people:
            person.bridge()
        return self._kept(len(frames))

    def _step(self, number: int, frame: np.ndarray) -> None:
        before = [person for person in self.people if number - 1 in person.squares]
        found = [here for person in before if (here := self._followed(person, number, frame)) is not None]
        lost = len(found) < len(before)
        if not self.prompts.placed and (lost or not found or number % _LOOK_AROUND == 0):
            self._look_around(number, frame, found)
        for character in self._prompted(number):
            self._place(number, frame, character)

    def _followed(self, person: Person, number: int, frame: np.ndarray) -> Finding | None:
        body = self.network.body(frame, person.squares[number - 1])
        if body.presence < PRESENT:
            return None
        found = Finding.of(body, frame)
        person.add(number, found)
        return found

    def _look_around(self, number: int, frame: np.ndarray, found: list[Finding]) -> None:
        """Looks for people in the whole frame who are not among those found in it by following."""
        for _, square in self.network.detect(frame):
            if any(_alike(square, each.body.following) for each in found):
                continue
            # A body's own landmarks place its square better than the detector's two points.
            body = self.network.body(frame, self.network.posture(frame, square).following)
            here = Finding.of(body, frame)
            if body.presence < PRESENT or any(map(here.same_person, found)):
                continue
            self._assign(number, here)
            found.append(here)

    def _assign(self, number: int, here: Finding) -> None:
        """Somebody nobody was followed to is whoever was lost last at that place, or somebody new."""
        lost = [person for person in self.people if number not in person.squares and person.squares]
        near = [person for person in lost if here.same_person(person.findings[max(person.findings)])]
        back = near or [person for person in lost if person.comes_back(number, here)]
        person = max(back, key=lambda each: max(each.findings)) if back else Person()
        if not back:
            self.people.append(person)
        person.add(number, here)

    def _prompted(self, number: int) -> list[int]:
        boxes = {each.character for each in self.prompts.boxes if each.frame == number}
        return sorted(boxes | {each.character for each in self.prompts.points if each.frame == number})

    def _place(self, number: int, frame: np.ndarray, character: int) -> None:
        """Puts a character where the user's box or points of this frame say."""
        while len(self.people) < character:
            self.people.append(Person())
        boxes = [each.box for each in self.prompts.boxes if (each.frame, each.character) == (number, character)]
        inside = [
            (each.x, each.y)
            for each in self.prompts.points
            if (each.frame, each.character) == (number, character) and each.inside
        ]
        if boxes:
            square = Square.of_box(boxes[-1])
        elif inside:
            square = self._around(frame, np.array(inside))
        else:
            return
        body = self.network.body(frame, square)
        again = self.network.body(frame, body.following)
        surer = again if again.presence >= body.presence else body
        self.people[character - 1].add(number, Finding.of(surer, frame))

    def _around(self, frame: np.ndarray, points: np.ndarray) -> Square:
        """The detected person nearest to points (N, 2), else a square around them of half the picture."""
        centre = points.mean(axis=0)
        squares = [square for _, square in self.network.detect(frame)]
        near = [each for each in squares if np.hypot(each.x - centre[0], each.y - centre[1]) < each.side / 2]
        if near:
            return min(near, key=lambda each: np.hypot(each.x - centre[0], each.y - centre[1]))
        return Square(float(centre[0]), float(centre[1]), min(frame.shape[:2]) / 2)

    def _backwards(self, frames: SizedFrames) -> None:
        """Follows everybody from each first finding towards the clip's beginning, and into gaps from behind."""
        for number, frame in _backward(frames):
            for person in self.people:
                if number in person.squares or number + 1 not in person.squares:
                    continue
                body = self.network.body(frame, person.squares[number + 1])
                here = Finding.of(body, frame)
                others = [each.findings[number] for each in self.people if number in each.findings]
                if body.presence >= PRESENT and not any(map(here.same_person, others)):
                    person.add(number, here)

    def _kept(self, total: int) -> list[Person]:
        if self.prompts.placed:
            return self.people
        found = [each for each in self.people if len(each.squares) >= min(total, max(_SHORTEST, total // 10))]
        found.sort(key=lambda each: -sum(int(here.footprint.sum()) for here in each.findings.values()))
        return found[: self.prompts.characters]


def _alike(a: Square, b: Square) -> bool:
    small, large = sorted((a.side, b.side))
    return bool(np.hypot(a.x - b.x, a.y - b.y) < _SAME_CENTRE * small and large < _SAME_SIZE * small)


def _forward(frames: SizedFrames) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(frames), _WINDOW):
        yield from enumerate(frames.frames(start, min(start + _WINDOW, len(frames)))[..., :3], start)


def _backward(frames: SizedFrames) -> Iterator[tuple[int, np.ndarray]]:
    for start in reversed(range(0, len(frames), _WINDOW)):
        window = frames.frames(start, min(start + _WINDOW, len(frames)))[..., :3]
        yield from reversed(list(enumerate(window, start)))
