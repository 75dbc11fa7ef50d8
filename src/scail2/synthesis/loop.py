"""The loop itself: what the machine asks for is done by pools, roles and generators, and written down before it counts."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np

from scail2.data import pairs
from scail2.data.endpoint.failures import NoAnswerError
from scail2.errors import InputError
from scail2.execution.figures import Resource
from scail2.execution.stages import StageBoard
from scail2.modes import AnimationMode
from scail2.synthesis.annotation import annotated
from scail2.synthesis.bench import Bench, Job
from scail2.synthesis.events import (
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
    Selected,
    Woven,
)
from scail2.synthesis.generators.protocol import Character, Clip, Motion
from scail2.synthesis.journal import Attempt, Circumstances, Happening, PairJournal, replayed
from scail2.synthesis.machine import State, advance, begin
from scail2.synthesis.pools.protocol import PoolMotion
from scail2.synthesis.replacing import one_performer, replaced_motion
from scail2.synthesis.roles.protocol import Edit, Made, Picture, RoleError, Told
from scail2.synthesis.store import Store

_LOSSES = 2  # of one thing, which is made again each time


class LostError(Exception):
    """A picture or clip that an earlier event made is not there any more."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class PairLoop:
    """Brings pairs to their end, from wherever the journal says that they stand.

    Args:
        store: pictures and clips in the making.
        board: gives out places at the phases, where several pairs are in the making at once; counts attempts that are discarded.
    """

    def __init__(self, bench: Bench, journal: PairJournal, store: Store, board: StageBoard | None = None) -> None:
        self.bench, self._journal, self._store = bench, journal, store
        self._board = board or StageBoard({phase.value: Resource.CPU for phase in Phase if not phase.is_over})
        self._known = journal.attempts()
        self._annotations: dict[str | None, pairs.Clip] = {}

    def attempts(self, key: str) -> list[Attempt]:
        """What the journal held of a pair when the loop began."""
        return self._known.get(key, [])

    def run(self, job: Job, attempts: int) -> State:
        """Makes attempts at a pair until one is accepted; the state of the last.

        Raises:
            InputError: an endpoint that cannot be reached or whose budget is spent, settings that fit nothing: what has been done
                is in the journal, and the same call goes on from there.
        """
        known = self.attempts(job.key)
        state = begin(job.kind)
        for number in range(attempts):
            if number < len(known):
                if known[number].kind is not job.kind:
                    raise InputError(
                        f"{self._journal.path}: pair {job.key} was begun as {known[number].kind.value}, and is to be "
                        f"{job.kind.value} now. Choose another folder."
                    )
                happenings = list(known[number].happenings)
            else:
                self._journal.begin(job.key, number, job.kind)
                happenings = []
            state = self._attempt(job, number, happenings)
            if state.phase is Phase.ACCEPTED:
                break
        return state

    def _attempt(self, job: Job, number: int, happenings: list[Happening]) -> State:
        state = replayed(job.kind, happenings, self.bench.budget, f"{self._journal.path}, pair {job.key}")
        lost = Counter[str]()
        while True:
            seed = derived_seed(self.bench.seed, job.number, number, state.events)
            try:
                if state.phase.is_over:
                    self._look_for(state)
                    return state
                with self._board.at(state.phase.value, job.number) as visit:
                    event, told = self._happen(state, seed)
                    visit.cost, visit.failed = told.cost, isinstance(event, Failed)
            except LostError as error:
                lost[error.name] += 1
                if lost[error.name] > _LOSSES:
                    raise InputError(
                        f"{self._store.folder} does not keep what is written there ({error.name}): is the disk in order?"
                    ) from None
                kept = _before(happenings, error.name)
                self._journal.rewind(job.key, number, kept)
                del happenings[kept:]
                state = replayed(job.kind, happenings, self.bench.budget, job.key)
                continue
            how = Circumstances(
                seed=seed, prompt=told.prompt, answer=told.answer, tokens=told.tokens, cost=told.cost,
                seconds=round(visit.seconds, 4),
            )  # fmt: skip
            self._journal.note(job.key, number, state.phase, event, how)
            happenings.append(Happening(phase=state.phase, event=event, how=how))
            state = advance(state, event, self.bench.budget)
            if state.phase is Phase.DISCARDED and state.cause is not None:
                self._board.count(state.cause.value)

    def _look_for(self, state: State) -> None:
        """Raises `LostError` where something that an accepted pair is put together from is not there."""
        if state.phase is Phase.ACCEPTED:
            for each in state.replaced:
                self._clip(each.clip)
                self._picture(each.picture)

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _happen(self, state: State, seed: int) -> tuple[Event, Told[Any]]:
        try:
            return _DOERS[state.phase](self, state, seed)
        except (NoAnswerError, RoleError) as error:
            return Failed(message=str(error)), Told(value=None)

    def _draw(self, state: State, seed: int) -> tuple[Event, Told[Any]]:
        if state.kind.is_pose:
            return Drawn(motion=self.bench.motions.draw(state.kind, seed), order=(0,)), Told(value=None)
        used = {each.character for each in state.replaced}
        candidates = tuple(self.bench.characters.draw(self.bench.candidates, seed, used))
        if state.turn:
            assert state.motion is not None
            return Drawn(motion=state.motion, order=state.order, candidates=candidates), Told(value=None)
        name = self.bench.motions.draw(state.kind, seed)
        count = len(self.bench.motions.motion(name).real.tracks)
        order = tuple(int(each) for each in np.random.default_rng([seed, 5]).permutation(count))
        if not state.kind.is_multi:
            order = order[:1]
        return Drawn(motion=name, order=order, candidates=candidates), Told(value=None)

    def _select(self, state: State, seed: int) -> tuple[Event, Told[Any]]:
        candidates = [self.bench.characters.character(name) for name in state.remaining]
        motion = self.pool_motion(state).motion
        told = self.bench.roles.selector.select(motion, state.performer, candidates, seed)
        number = told.value.number
        if number is not None and not 0 <= number < len(candidates):
            raise RoleError(f"The selector chose candidate {number} of {len(candidates)}.")
        return Selected(character=None if number is None else state.remaining[number]), told

    def _weave(self, state: State, seed: int) -> tuple[Event, Told[Any]]:
        told = self.bench.roles.weaver.weave(self._edit_of(state), seed)
        return Woven(words=told.value), told

    def _edit(self, state: State, seed: int) -> tuple[Event, Told[Any]]:
        edit = self._edit_of(state)
        is_ready = self.bench.characters.is_standing(edit.character.name) and state.picture is None
        if is_ready and state.first_task is edit.task and state.kind.mode is AnimationMode.REPLACEMENT:
            picture = Picture(image=edit.character.image, source=edit.character.source)
        else:
            picture = self.bench.roles.editor.edit(edit, state.words, seed)
        return Edited(picture=self._store.keep(picture.image), source=picture.source), Told(value=None)

    def _judge_picture(self, state: State, seed: int) -> tuple[Event, Told[Any]]:
        picture = Picture(image=self._picture(state.picture), source=state.picture_source)
        told = self.bench.roles.judge.judge_picture(picture, self._edit_of(state), seed)
        return PictureJudged(finding=told.value.finding, remark=told.value.reason), told

    def _generate(self, state: State, seed: int) -> tuple[Event, Told[Any]]:
        generator = self.bench.generators[state.kind.mode]
        made = self._made(state, None, seed)
        try:
            clip = generator.generate(made.character, made.motion, state.kind.mode, made.masks, seed)
        except NoAnswerError:
            raise
        except InputError as error:
            raise RoleError(f"{generator.facts.name}: {error}") from error
        if clip.frames.shape != made.motion.clip.frames.shape:
            raise RoleError(
                f"{generator.facts.name} made frames {clip.frames.shape} of a motion {made.motion.clip.frames.shape}."
            )
        return Generated(clip=self._store.keep(clip.frames), seed=seed), Told(value=None)

    def _check_clip(self, state: State, seed: int) -> tuple[Event, Told[Any]]:
        made = self._made(state, state.clip, state.clip_seed)
        verdict = self.bench.check.check(made)
        passed, reasons = verdict.passed, tuple(verdict.reasons)
        if passed:
            try:
                self._annotate(state, state.clip, made)
            except InputError as error:  # whoever cannot be found cannot be masked
                passed, reasons = False, (str(error),)
        return ClipChecked(passed=passed, reasons=reasons), Told(value=None)

    def _judge_clip(self, state: State, seed: int) -> tuple[Event, Told[Any]]:
        told = self.bench.roles.judge.judge_clip(self._made(state, state.clip, state.clip_seed), seed)
        return ClipJudged(finding=told.value.finding, remark=told.value.reason), told

    def _extract(self, state: State, seed: int) -> tuple[Event, Told[Any]]:
        return Extracted(found=self.pool_motion(state).real.pose is not None), Told(value=None)

    def _caption(self, state: State, seed: int) -> tuple[Event, Told[Any]]:
        captioner, drawn = self.bench.roles.captioner, self.pool_motion(state)
        real = captioner.caption(drawn.motion.clip, drawn.real.caption, seed)
        if not state.replaced:
            return Captioned(real=real.value), real
        clip = Clip(frames=self._clip(state.replaced[-1].clip), fps=drawn.motion.clip.fps)
        who = [self.bench.characters.character(each.character).caption for each in state.replaced]
        synthetic = captioner.caption(clip, " ".join(filter(None, who)), seed + 1)
        both = Told(
            value=None, prompt="\n\n".join(filter(None, (real.prompt, synthetic.prompt))),
            answer="\n\n".join(filter(None, (real.answer, synthetic.answer))),
            tokens=real.tokens + synthetic.tokens, cost=real.cost + synthetic.cost,
        )  # fmt: skip
        return Captioned(real=real.value, synthetic=synthetic.value), both

    # ---- what a step needs -------------------------------------------------------------------------------------------

    def pool_motion(self, state: State) -> PoolMotion:
        """The motion of a pair, as it was drawn."""
        assert state.motion is not None
        return self.bench.motions.motion(state.motion)

    def motion(self, state: State, turn: int) -> Motion:
        """The motion as the performer of that turn finds it: those before are replaced."""
        motion = self.pool_motion(state).motion
        for each in state.replaced[:turn]:
            motion = replaced_motion(motion, each.performer, self._dressed(each.character, None), self._clip(each.clip))
        return motion

    def made(self, state: State) -> Made:
        """The last clip of an accepted pair, and what it was made of."""
        turn, last = len(state.replaced) - 1, state.replaced[-1]
        motion = self.motion(state, turn)
        replaces = state.kind.mode is AnimationMode.REPLACEMENT
        return Made(
            clip=Clip(frames=self._clip(last.clip), fps=motion.clip.fps),
            character=self._dressed(last.character, last.picture),
            motion=motion,
            performer=last.performer,
            masks=one_performer(motion, last.performer) if replaces else None,
            seed=last.seed,
            mode=state.kind.mode,
        )

    def annotated(self, state: State) -> pairs.Clip:
        """The last clip of an accepted pair, with its characters."""
        return self._annotate(state, state.replaced[-1].clip, self.made(state))

    def _annotate(self, state: State, clip: str | None, made: Made) -> pairs.Clip:
        """Finding somebody takes seconds: what was found in the check is kept for the pair."""
        found = self._annotations.get(clip)
        if found is None:
            found = annotated(made, self.bench.generators[state.kind.mode], self.pool_motion(state).real)
            self._annotations.clear()
            self._annotations[clip] = found
        return found

    def _made(self, state: State, clip: str | None, seed: int) -> Made:
        assert state.character is not None
        motion = self.motion(state, state.turn)
        replaces = state.kind.mode is AnimationMode.REPLACEMENT
        return Made(
            clip=motion.clip if clip is None else Clip(frames=self._clip(clip), fps=motion.clip.fps),
            character=self._dressed(state.character, state.picture),
            motion=motion,
            performer=state.performer,
            masks=one_performer(motion, state.performer) if replaces else None,
            seed=seed,
            mode=state.kind.mode,
        )

    def _edit_of(self, state: State) -> Edit:
        assert state.character is not None
        character = self.bench.characters.character(state.character)
        base = Picture(image=character.image, source=character.source)
        if state.picture is not None and state.phase is not Phase.JUDGE_PICTURE:
            base = Picture(image=self._picture(state.picture), source=state.picture_source)
        return Edit(
            task=state.task, base=base, character=character, motion=self.motion(state, state.turn),
            performer=state.performer, remark=state.remark,
        )  # fmt: skip

    def _dressed(self, name: str, picture: str | None) -> Character:
        """A character in the picture that was made of it, or in its own; whoever needs its mask there finds it."""
        character = self.bench.characters.character(name)
        if picture is None:
            return character
        return dataclasses.replace(character, image=self._picture(picture), mask=None)

    def _picture(self, name: str | None) -> np.ndarray:
        assert name is not None
        pixels = self._store.picture(name)
        if pixels is None:
            raise LostError(name)
        return pixels

    def _clip(self, name: str) -> np.ndarray:
        pixels = self._store.clip(name)
        if pixels is None:
            raise LostError(name)
        return pixels


_DOERS = {
    Phase.DRAW: PairLoop._draw,
    Phase.SELECT: PairLoop._select,
    Phase.WEAVE: PairLoop._weave,
    Phase.EDIT: PairLoop._edit,
    Phase.JUDGE_PICTURE: PairLoop._judge_picture,
    Phase.GENERATE: PairLoop._generate,
    Phase.CHECK_CLIP: PairLoop._check_clip,
    Phase.JUDGE_CLIP: PairLoop._judge_clip,
    Phase.EXTRACT: PairLoop._extract,
    Phase.CAPTION: PairLoop._caption,
}


def derived_seed(*numbers: int) -> int:
    """One seed below 2^31 of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) >> 1


def _before(happenings: list[Happening], lost: str) -> int:
    """How many events there were before the one that made what is lost."""
    for place, each in enumerate(happenings):
        if lost in (getattr(each.event, "picture", None), getattr(each.event, "clip", None)):
            return place
    return 0
