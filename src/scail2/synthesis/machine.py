"""The loop as a machine: what state a pair in the making is in, what may happen to it, what comes of that.

Nothing here draws, asks or renders. A state is a value, `advance` a pure function of a state and an event: a journal of events
is enough to know, at any time and anywhere, how far a pair has come and why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.files.documents import Between
from scail2.modes import AnimationMode
from scail2.synthesis.events import (
    EXPECTED,
    Captioned,
    ClipChecked,
    ClipJudged,
    Drawn,
    Edited,
    Event,
    Extracted,
    Failed,
    Generated,
    Phase,
    PictureJudged,
    Reason,
    Selected,
    Woven,
)
from scail2.synthesis.roles.protocol import Finding, Task

_FEW = Between(1, 100)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How often a thing may be tried before the next larger one is given up.

    Attributes:
        draws: motions (with candidates) for one pair.
        characters: of those that were drawn, before others are drawn.
        pose_edits, environment_edits: further edits of one character's picture because of its pose, its scene.
        clips: generated with one picture.
        failures: questions without an answer, in all.
    """

    draws: Annotated[int, _FEW] = 3
    characters: Annotated[int, _FEW] = 2
    pose_edits: Annotated[int, Between(0, 100)] = 3
    environment_edits: Annotated[int, Between(0, 100)] = 2
    clips: Annotated[int, _FEW] = 2
    failures: Annotated[int, _FEW] = 4

    def most_events(self, performers: int) -> int:
        """Events after which every pair of so many performers is accepted or discarded."""
        edits = 1 + self.pose_edits + self.environment_edits
        one_character = 1 + 3 * edits + 3 * self.clips
        rounds = self.draws + performers - 1
        return rounds * (1 + self.characters * one_character) + self.failures + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """A pair in the making.

    Attributes:
        events: so many have happened.
        order: performers to replace, `turn` the place in it of the one whose turn it is.
        excluded: candidates that failed for this performer.
        task: of the next edit; `picture` is what it edits, None for the character's own.
        replaced: accepted so far: performer, character, picture, clip, the clip's seed.
        cause: why something was given up last; the reason of a discarded pair. `trouble`: its last failure, in words.
    """

    kind: SampleKind
    phase: Phase = Phase.DRAW
    events: int = 0
    motion: str | None = None
    order: tuple[int, ...] = ()
    turn: int = 0
    candidates: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    character: str | None = None
    task: Task = Task.POSE
    words: str = ""
    picture: str | None = None
    picture_source: str = ""
    remark: str = ""
    clip: str | None = None
    clip_seed: int = 0
    replaced: tuple["Replaced", ...] = ()
    captions: tuple[str, str] = ("", "")
    draws: int = 0
    characters: int = 0
    pose_edits: int = 0
    environment_edits: int = 0
    clips: int = 0
    failures: int = 0
    cause: Reason | None = None
    trouble: str = ""

    @property
    def performer(self) -> int:
        """The one whose turn it is."""
        return self.order[self.turn] if self.order else 0

    @property
    def remaining(self) -> tuple[str, ...]:
        """Candidates that have not failed."""
        return tuple(name for name in self.candidates if name not in self.excluded)

    @property
    def first_task(self) -> Task:
        """What the first edit of a character is for."""
        return Task.STAND if self.kind.mode is AnimationMode.REPLACEMENT else Task.POSE


@dataclass(frozen=True, kw_only=True, slots=True)
class Replaced:
    """A performer for whom a character stands in now."""

    performer: int
    character: str
    picture: str
    picture_source: str
    clip: str
    seed: int


def begin(kind: SampleKind) -> State:
    """The state before anything happened.

    Raises:
        InputError: multi-character animation, which is never synthesised, and kinds that no pair is made for.
    """
    if kind is SampleKind.ANIMATION_MULTI:
        raise InputError(
            "Multi-character animation is never synthesised: models learn it from multi replacement and single animation."
        )
    if kind is SampleKind.SELF_DRIVEN:
        raise InputError(
            "Self-driven samples are made of single videos, by scail2 cache; no pair is synthesised for them."
        )
    return State(kind=kind)


def advance(state: State, event: Event, budget: Budget) -> State:
    """The state after an event.

    Raises:
        ValueError: the event cannot happen in this state: a journal that was changed, or an error in the loop.
    """
    expected = EXPECTED.get(state.phase)
    if expected is None or not isinstance(event, expected | Failed):
        raise ValueError(f"{type(event).__name__} cannot happen in the phase {state.phase.value}")
    state = replace(state, events=state.events + 1)
    if isinstance(event, Failed):
        return _failed(replace(state, trouble=event.message), budget)
    return _STEPS[state.phase](state, event, budget)


def _failed(state: State, budget: Budget) -> State:
    state = replace(state, failures=state.failures + 1)
    if state.failures < budget.failures:
        return state  # the same question again, with another seed
    return replace(state, phase=Phase.DISCARDED, cause=Reason.NO_ANSWER)


def _drawn(state: State, event: Drawn, budget: Budget) -> State:
    if state.turn and (event.motion, event.order) != (state.motion, state.order):
        raise ValueError("the motion changed between two performers")
    state = replace(state, motion=event.motion, order=event.order, draws=state.draws + 1)
    state = replace(state, candidates=event.candidates, excluded=(), characters=0)
    if state.kind.is_pose:
        return replace(state, phase=Phase.EXTRACT)
    return replace(state, phase=Phase.SELECT) if state.remaining else _redraw(state, Reason.NO_CANDIDATE, budget)


def _redraw(state: State, cause: Reason, budget: Budget) -> State:
    """Others are drawn; for a later performer only candidates, since the motion is half replaced."""
    state = replace(state, cause=cause)
    # Each further performer comes with a draw of its own.
    if state.draws < budget.draws + state.turn:
        return replace(state, phase=Phase.DRAW)
    return replace(state, phase=Phase.DISCARDED)


def _selected(state: State, event: Selected, budget: Budget) -> State:
    if event.character is None:
        return _redraw(state, Reason.NO_CANDIDATE, budget)
    if event.character not in state.remaining:
        raise ValueError(f"{event.character} is none of the candidates")
    return replace(
        state,
        phase=Phase.WEAVE,
        character=event.character,
        characters=state.characters + 1,
        task=state.first_task,
        picture=None,
        picture_source="",
        remark="",
        clip=None,
        pose_edits=0,
        environment_edits=0,
        clips=0,
    )


def _woven(state: State, event: Woven, budget: Budget) -> State:
    return replace(state, phase=Phase.EDIT, words=event.words)


def _edited(state: State, event: Edited, budget: Budget) -> State:
    return replace(state, phase=Phase.JUDGE_PICTURE, picture=event.picture, picture_source=event.source)


def _picture_judged(state: State, event: PictureJudged, budget: Budget) -> State:
    state = replace(state, remark=event.remark)
    match event.finding:
        case Finding.PASS:
            return replace(state, phase=Phase.GENERATE)
        case Finding.POSE if state.pose_edits < budget.pose_edits:
            return replace(state, phase=Phase.WEAVE, task=state.first_task, pose_edits=state.pose_edits + 1)
        case Finding.ENVIRONMENT if state.environment_edits < budget.environment_edits:
            # Before white there is only one scene: what is wrong with it is mended by standing there again.
            task = Task.STAND if state.first_task is Task.STAND else Task.ENVIRONMENT
            return replace(state, phase=Phase.WEAVE, task=task, environment_edits=state.environment_edits + 1)
    causes = {Finding.POSE: Reason.POSE, Finding.ENVIRONMENT: Reason.ENVIRONMENT}
    return _exclude(state, causes.get(event.finding, Reason.PICTURE), budget)


def _exclude(state: State, cause: Reason, budget: Budget) -> State:
    assert state.character is not None
    state = replace(state, excluded=(*state.excluded, state.character), cause=cause)
    if state.remaining and state.characters < budget.characters:
        return replace(state, phase=Phase.SELECT)
    return _redraw(state, cause, budget)


def _generated(state: State, event: Generated, budget: Budget) -> State:
    return replace(
        state, phase=Phase.CHECK_CLIP, clip=event.clip, clip_seed=event.seed, clips=state.clips + 1
    )  # fmt: skip


def _clip_checked(state: State, event: ClipChecked, budget: Budget) -> State:
    if event.passed:
        return replace(state, phase=Phase.JUDGE_CLIP)
    return _again(state, Reason.CLIP_CHECK, budget)


def _clip_judged(state: State, event: ClipJudged, budget: Budget) -> State:
    state = replace(state, remark=event.remark)
    if event.finding is not Finding.PASS:
        return _again(state, Reason.CLIP_JUDGED, budget)
    assert state.character is not None
    assert state.picture is not None
    assert state.clip is not None
    done = Replaced(
        performer=state.performer, character=state.character, picture=state.picture,
        picture_source=state.picture_source, clip=state.clip, seed=state.clip_seed,
    )  # fmt: skip
    state = replace(state, replaced=(*state.replaced, done))
    if state.turn + 1 < len(state.order):
        return replace(state, phase=Phase.DRAW, turn=state.turn + 1)
    return replace(state, phase=Phase.CAPTION)


def _again(state: State, cause: Reason, budget: Budget) -> State:
    """Another clip of the same picture; then another character."""
    if state.clips < budget.clips:
        return replace(state, phase=Phase.GENERATE, cause=cause)
    return _exclude(state, cause, budget)


def _extracted(state: State, event: Extracted, budget: Budget) -> State:
    return replace(state, phase=Phase.CAPTION) if event.found else _redraw(state, Reason.NO_POSE, budget)


def _captioned(state: State, event: Captioned, budget: Budget) -> State:
    return replace(state, phase=Phase.ACCEPTED, captions=(event.real, event.synthetic), cause=None)


_STEPS: Mapping[Phase, Callable[[State, Any, Budget], State]] = {
    Phase.DRAW: _drawn,
    Phase.SELECT: _selected,
    Phase.WEAVE: _woven,
    Phase.EDIT: _edited,
    Phase.JUDGE_PICTURE: _picture_judged,
    Phase.GENERATE: _generated,
    Phase.CHECK_CLIP: _clip_checked,
    Phase.JUDGE_CLIP: _clip_judged,
    Phase.EXTRACT: _extracted,
    Phase.CAPTION: _captioned,
}
