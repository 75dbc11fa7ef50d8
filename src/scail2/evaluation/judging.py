"""Films judged by a vision-language model, as Video-Bench does: scores by dimension, and one film against another.

A model that judges has habits: it likes the first film, and it does not say the same thing twice. So every question is asked
several times, every comparison in both orders, and how far the answers agree is told with the result.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, Field

from scail2.evaluation.comparison import Interval, interval_of_means, interval_of_share

Array = np.ndarray
Answer = TypeVar("Answer", bound=BaseModel)


PROMPTS = 1
"""Version of the questions' wording: answers to another one are not used."""


class Dimension(StrEnum):
    """What is judged; names and sense as in Video-Bench's table for character animation."""

    IMAGING = "imaging"
    SMOOTHNESS = "smoothness"
    TEMPORAL = "temporal_consistency"
    APPEARANCE = "appearance"

    @property
    def question(self) -> str:
        """What the judge is to look at."""
        return _QUESTIONS[self]

    @property
    def consecutive(self) -> bool:
        """Whether neighbouring frames must be seen; otherwise frames over the whole film."""
        return self is Dimension.SMOOTHNESS

    @property
    def needs_reference(self) -> bool:
        """Whether the question is about a reference picture, and means nothing where none is shown."""
        return self is Dimension.APPEARANCE


_QUESTIONS = {
    Dimension.IMAGING: (
        "imaging quality: is every frame sharp and clean, without blur, noise, blocks or deformed bodies, faces and hands? "
        "Judge the frames, not the motion."
    ),
    Dimension.SMOOTHNESS: (
        "motion smoothness: do bodies move on evenly from frame to frame, without jumps, jitter or frozen frames? The frames "
        "follow each other directly."
    ),
    Dimension.TEMPORAL: (
        "temporal consistency: do the character and the scene stay the same over the film, in shape, colour, clothing and "
        "background, without flicker or things that come and go?"
    ),
    Dimension.APPEARANCE: (
        "appearance consistency: is the character of every frame the one of the reference picture, in face, hair, build, "
        "clothing and style?"
    ),
}
_SCALE = "5: flawless; 4: small faults that one has to look for; 3: visible faults; 2: disturbing faults; 1: unusable."


class Score(BaseModel):
    """An answer about one film."""

    reason: str = Field(description="One or two sentences: what is seen, fault by fault.")
    score: int = Field(ge=1, le=5)


class Preference(BaseModel):
    """An answer about two films."""

    reason: str = Field(description="One or two sentences: what differs.")
    better: Literal["first", "second", "same"]


class Asked(Protocol):
    """What answers: an `Endpoint`, or anything else with its `ask`."""

    def ask(self, prompt: str, pictures: Sequence[Array], answer: type[Answer], *, seed: int | None = None) -> Answer:
        """The typed answer to a question with pictures, each uint8 (H, W, 3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownFilm:
    """A film as a judge sees it: frames over all of it and a run of neighbouring ones, uint8 `(N, H, W, 3)`."""

    spread: Array
    neighbours: Array

    def frames(self, dimension: Dimension) -> Array:
        """Those that the dimension needs."""
        return self.neighbours if dimension.consecutive else self.spread


def shown(frames: Array, count: int) -> ShownFilm:
    """``count`` frames over a whole film, first and last among them, and as many neighbouring ones from its middle."""
    length = len(frames)
    spread = np.linspace(0, length - 1, min(count, length)).round().astype(int)
    start = max(0, (length - count) // 2)
    return ShownFilm(spread=frames[spread], neighbours=frames[start : start + count])


def score_film(judge: Asked, film: ShownFilm, reference: Array | None, dimension: Dimension, *, repeat: int) -> Score:
    """One answer about one film."""
    before = "Picture 1 is the reference picture of the character. " if reference is not None else ""
    frames = film.frames(dimension)
    prompt = (
        f"You judge a film in which a pictured character performs a motion. {before}The {'other ' if before else ''}"
        f"{len(frames)} pictures are frames of the film, in order.\nJudge only its {dimension.question}\n{_SCALE}\n"
        "Look at every frame first, name the faults, then give the score."
    )
    pictures = [*([] if reference is None else [reference]), *frames]
    return judge.ask(prompt, pictures, Score, seed=repeat)


def compare_films(
    judge: Asked, films: tuple[ShownFilm, ShownFilm], reference: Array | None, dimension: Dimension, *, repeat: int
) -> Preference:
    """One answer about two films, the first shown first."""
    before = "Picture 1 is the reference picture of the character. " if reference is not None else ""
    first, second = (film.frames(dimension) for film in films)
    prompt = (
        f"Two films show a pictured character performing the same motion. {before}The next {len(first)} pictures are frames of "
        f"the first film, the last {len(second)} pictures frames of the second film, each in order.\nCompare only "
        f"their {dimension.question}\nWhich is better: first, second, or same if you cannot tell?"
    )
    pictures = [*([] if reference is None else [reference]), *first, *second]
    return judge.ask(prompt, pictures, Preference, seed=repeat)


# ---- what the answers say ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """Scores of one system in one dimension.

    Attributes:
        mean: over cases (each the mean of its repeats), with its 95 % interval.
        spread: mean distance of a repeat from another one of the same film; 0 says the same thing every time.
        same: share of pairs of repeats with the same score; nan without repeats.
    """

    mean: Interval
    spread: float
    same: float


def summarise_scores(scores: Mapping[str, Sequence[int]]) -> ScoreSummary:
    """From the repeated scores of each case."""
    means = [float(np.mean(values)) for values in scores.values()]
    gaps = [abs(one - other) for values in scores.values() for one, other in _pairs(values)]
    nan = float("nan")
    return ScoreSummary(
        interval_of_means(means),
        float(np.mean(gaps)) if gaps else nan,
        float(np.mean([gap == 0 for gap in gaps])) if gaps else nan,
    )


def _pairs(values: Sequence[int]) -> Iterator[tuple[int, int]]:
    for n, one in enumerate(values):
        for other in values[n + 1 :]:
            yield one, other


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems in one dimension: shares of cases won, tied and lost by the first, and what the answers are worth.

    Attributes:
        win, tie, lose: with 95 % intervals (bootstrap over cases).
        margin: wins minus losses, in [−1, 1], with its 95 % interval (bootstrap over cases).
        agreement: share of pairs of questions, one in each order, that name the same film (or both none).
        first_liked: share of the answers that name a film which name the one shown first; 0.5 is fair.
    """

    win: Interval
    tie: Interval
    lose: Interval
    margin: Interval
    agreement: float
    first_liked: float
    cases: int


def summarise_comparisons(answers: Mapping[str, Sequence[tuple[Preference, Preference]]]) -> Comparison:
    """From each case's repeated pairs of answers: (the system's film shown first, its film shown second).

    A case is won where the system's film was named more often than the other's over both orders and all repeats, tied where as
    often: an answer that follows the order cancels itself.
    """
    balances, agreeing, named_first, named = [], [], 0, 0
    for pairs in answers.values():
        balance = 0
        for straight, turned in pairs:
            votes = (_vote(straight.better, shown_first=True), _vote(turned.better, shown_first=False))
            balance += sum(votes)
            agreeing.append(votes[0] == votes[1])
            for answer in (straight, turned):
                named += answer.better != "same"
                named_first += answer.better == "first"
        balances.append(float(np.sign(balance)))
    once = [1] * len(balances)
    win, tie, lose = (interval_of_share([int(each == worth) for each in balances], once) for worth in (1, 0, -1))
    return Comparison(
        win=win,
        tie=tie,
        lose=lose,
        margin=interval_of_means(balances),
        agreement=float(np.mean(agreeing)),
        first_liked=named_first / named if named else float("nan"),
        cases=len(balances),
    )


def _vote(better: str, *, shown_first: bool) -> int:
    """1 for the system, −1 for the other, 0 for neither."""
    if better == "same":
        return 0
    return 1 if (better == "first") == shown_first else -1
