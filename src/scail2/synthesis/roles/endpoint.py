"""Roles played by a vision-language model behind an OpenAI-compatible endpoint: what it is asked, and what its answers mean."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, Field

from scail2.data.endpoint.client import Endpoint
from scail2.synthesis.generators.protocol import Array, Character, Clip, Motion
from scail2.synthesis.roles.protocol import Choice, Edit, Finding, Made, Picture, Ruling, Task, Told
from scail2.video.resize import resize_letterbox

A = TypeVar("A", bound=BaseModel)

_SELECT = """You cast a video. Picture 1 is the first frame of somebody's performance. Pictures 2 to {last} \
show {count} characters, candidates 1 to {count} in this order. One of them is to perform the same motion{which}.

Choose the candidate whose body can do it: as many limbs, a similar build, everything that moves there present here \
and not cut off by the picture's edge, nothing in the hands that the motion would go through. Style, age and dress \
may differ as much as they like. If none of them could perform it credibly, choose 0.

Say in one sentence why."""

_WEAVE_POSE = """You write instructions for a picture editor. Picture 1 shows {character}. Picture 2 is the first \
frame of somebody's performance{which}. The editor is to make one new picture: the character of Picture 1, in its \
own surroundings, in the very posture of Picture 2, as large and at the same place in the frame.

Write the instruction in the imperative, in three to five sentences: who it is (what must not change: face, hair, \
dress, style of drawing), the posture (trunk, head and gaze, each arm, each hand, each leg, what touches the ground, \
seen from where), and the background (that of Picture 1, continued where needed; nothing of Picture 2's scene or \
person).{remark}"""

_WEAVE_STAND = """You write instructions for a picture editor. Picture 1 shows {character}. The editor is to make \
one new picture: the whole character from head to feet, standing upright, facing the viewer, arms at the sides, \
hands empty and visible, before a plain white background without floor or shadow.

Write the instruction in the imperative, in two to four sentences: who it is (what must not change: face, hair, \
dress, style of drawing), the stance, the background.{remark}"""

_WEAVE_SCENE = """You write instructions for a picture editor. Picture 1 is to be mended: its character and \
posture are right, its scene is not. Picture 2 shows whose scene leaked into it, and is not to be seen. The \
character belongs to: {character}.

Write the instruction in the imperative, in two to four sentences: which surroundings replace the present ones (the \
character's own, credible in light, ground contact and perspective), and that character, posture, size and place \
stay exactly as they are.{remark}"""

_REMARK = "\n\nAn earlier attempt failed, for this reason; the instruction must make it right: {remark}"

_JUDGE_POSE = """You check a picture before a video is made of it. Picture 1 is the picture. Picture 2 is the \
first frame of the performance whose posture it must show{which}. Picture 3 is the character that it must show.

Judge each by itself:
pose: trunk, head, both arms, both hands and both legs as in Picture 2, at the same place and size in the frame; \
left and right not exchanged.
environment: credible, and the character's own; nothing of the scene or the person of Picture 2 has leaked in.
character: the same as in Picture 3: face, hair, dress, proportions, style.
quality: one character, whole, without extra or missing limbs, melted hands, text or seams.

In the remark say what an editor would have to change, in one sentence; nothing if all is well."""

_JUDGE_STAND = """You check a picture before a video is made of it. Picture 1 is the picture. Picture 2 is the \
character that it must show.

Judge each by itself:
pose: the whole character from head to feet, standing upright, facing the viewer, arms at the sides.
environment: plain white, nothing else.
character: the same as in Picture 2: face, hair, dress, proportions, style.
quality: one character, without extra or missing limbs, melted hands, text or seams.

In the remark say what an editor would have to change, in one sentence; nothing if all is well."""

_JUDGE_CLIP = """You check a generated video. Each of Pictures 1 to {count} shows one moment: at the left the \
performance that drives it, at the right what was generated. Picture {last} is the character that must be seen at \
the right{which}.

Judge each by itself:
pose: at every moment the posture at the right is that at the left.
environment: {scene}
character: the same character at every moment, that of Picture {last}.
quality: no flicker, no melted or extra limbs, no second figure, nothing frozen while the left moves.

In the remark say what is wrong, in one sentence; nothing if all is well."""

_SCENE = {
    False: "one credible scene throughout, not that at the left.",
    True: "exactly the scene at the left, also behind and around the character.",
}

_CAPTION = """The pictures are moments of one video, in order. Describe the video in one paragraph of 80 to \
120 words, in the present tense, for somebody who is to make it again: style of the picture, who is seen (build, \
hair, face, dress), what they do from beginning to end, the surroundings, the light, and how the camera stands or \
moves. No introduction, no guesses about names, places or sound.{subject}"""


class Cast(BaseModel):
    """A selector's answer; 0 is nobody."""

    reason: str = Field(max_length=2000)
    candidate: int = Field(ge=0)


class Instruction(BaseModel):
    """A weaver's answer."""

    instruction: str = Field(min_length=1, max_length=4000)


class Inspection(BaseModel):
    """A judge's answer."""

    remark: str = Field(max_length=2000)
    pose: Literal["right", "wrong"]
    environment: Literal["right", "wrong"]
    character: Literal["right", "wrong"]
    quality: Literal["good", "poor", "useless"]

    @property
    def ruling(self) -> Ruling:
        """What it means for the loop."""
        if self.character == "wrong" or self.quality == "useless":
            return Ruling(finding=Finding.FAILURE, reason=self.remark)
        if self.pose == "wrong" or self.quality == "poor":
            return Ruling(finding=Finding.POSE, reason=self.remark)
        if self.environment == "wrong":
            return Ruling(finding=Finding.ENVIRONMENT, reason=self.remark)
        return Ruling(finding=Finding.PASS)


class Description(BaseModel):
    """A captioner's answer."""

    caption: str = Field(min_length=1, max_length=8000)


@dataclass(frozen=True, kw_only=True)
class _EndpointRole:
    """What all of them share.

    Attributes:
        frames: moments of a clip that are shown.
    """

    endpoint: Endpoint
    frames: int = 4

    def describe(self) -> dict[str, Any]:
        """The model and the words it is asked in; where it is served does not matter."""
        words = "".join(
            (_SELECT, _WEAVE_POSE, _WEAVE_STAND, _WEAVE_SCENE, _JUDGE_POSE, _JUDGE_STAND, _JUDGE_CLIP, _CAPTION)
        )
        digest = hashlib.sha256(words.encode()).hexdigest()[:16]
        return {
            "role": type(self).__name__,
            "model": self.endpoint.settings.model,
            "words": digest,
            "frames": self.frames,
        }

    def _told(self, prompt: str, pictures: Sequence[Array], kind: type[A], seed: int) -> Told[A]:
        reply = self.endpoint.reply(prompt, pictures, kind, seed=seed)
        tokens = reply.prompt_tokens + reply.answer_tokens
        return Told(value=reply.answer, prompt=prompt, answer=reply.text, tokens=tokens, cost=reply.cost)


def _changed(told: Told[Any], value: Any) -> Told[Any]:
    return Told(value=value, prompt=told.prompt, answer=told.answer, tokens=told.tokens, cost=told.cost)


def _which(motion: Motion, performer: int) -> str:
    """Which of several performers is meant, in words."""
    if motion.masks is None:
        return ""
    from scail2.synthesis.replacing import performers_of

    first = performers_of(motion)[:, 0]
    if len(first) < 2:
        return ""
    centres = [float(np.nonzero(each)[1].mean()) if each.any() else np.inf for each in first]
    place = 1 + sorted(range(len(centres)), key=lambda n: centres[n]).index(performer)
    return f" (of the {len(first)} people there, number {place} from the left is meant)"


@dataclass(frozen=True, kw_only=True)
class EndpointSelector(_EndpointRole):
    """See `Selector`."""

    def select(self, motion: Motion, performer: int, candidates: Sequence[Character], seed: int) -> Told[Choice]:
        """See `Selector`. Candidates that do not exist are nobody."""
        prompt = _SELECT.format(last=1 + len(candidates), count=len(candidates), which=_which(motion, performer))
        told = self._told(prompt, [motion.clip.frames[0], *(each.image for each in candidates)], Cast, seed)
        chosen = told.value.candidate
        number = chosen - 1 if 1 <= chosen <= len(candidates) else None
        return _changed(told, Choice(number=number, reason=told.value.reason))


@dataclass(frozen=True, kw_only=True)
class EndpointWeaver(_EndpointRole):
    """See `Weaver`."""

    def weave(self, edit: Edit, seed: int) -> Told[str]:
        """See `Weaver`."""
        words = {Task.POSE: _WEAVE_POSE, Task.STAND: _WEAVE_STAND, Task.ENVIRONMENT: _WEAVE_SCENE}[edit.task]
        prompt = words.format(
            character=edit.character.caption or "a character",
            which=_which(edit.motion, edit.performer),
            remark=_REMARK.format(remark=edit.remark) if edit.remark else "",
        )
        pictures = [edit.base.image] if edit.task is Task.STAND else [edit.base.image, edit.guide]
        told = self._told(prompt, pictures, Instruction, seed)
        return _changed(told, told.value.instruction)


@dataclass(frozen=True, kw_only=True)
class EndpointJudge(_EndpointRole):
    """See `Judge`."""

    def judge_picture(self, picture: Picture, edit: Edit, seed: int) -> Told[Ruling]:
        """See `Judge`."""
        if edit.task is Task.STAND:
            told = self._told(_JUDGE_STAND, [picture.image, edit.character.image], Inspection, seed)
        else:
            prompt = _JUDGE_POSE.format(which=_which(edit.motion, edit.performer))
            told = self._told(prompt, [picture.image, edit.guide, edit.character.image], Inspection, seed)
        return _changed(told, told.value.ruling)

    def judge_clip(self, made: Made, seed: int) -> Told[Ruling]:
        """See `Judge`."""
        moments = sampled(len(made.clip.frames), self.frames)
        shown = [beside(made.motion.clip.frames[n], made.clip.frames[n]) for n in moments]
        prompt = _JUDGE_CLIP.format(
            count=len(shown),
            last=len(shown) + 1,
            scene=_SCENE[made.replaces],
            which=_which(made.motion, made.performer),
        )
        told = self._told(prompt, [*shown, made.character.image], Inspection, seed)
        return _changed(told, told.value.ruling)


@dataclass(frozen=True, kw_only=True)
class EndpointCaptioner(_EndpointRole):
    """See `Captioner`."""

    def caption(self, clip: Clip, subject: str, seed: int) -> Told[str]:
        """See `Captioner`."""
        prompt = _CAPTION.format(subject=f"\n\nWhat is known of it: {subject}" if subject else "")
        told = self._told(prompt, [clip.frames[n] for n in sampled(len(clip.frames), self.frames)], Description, seed)
        return _changed(told, told.value.caption)


def sampled(frames: int, count: int) -> list[int]:
    """Numbers of so many frames, evenly over a clip, its ends among them."""
    return [int(n) for n in np.unique(np.linspace(0, frames - 1, min(count, frames)).round())]


def beside(left: Array, right: Array) -> Array:
    """Two pictures next to each other with a white line between them, the right one fitted to the left one's size."""
    height, width = left.shape[:2]
    fitted = resize_letterbox(right, height, width)
    return np.concatenate([left, np.full((height, max(2, width // 64), 3), 255, np.uint8), fitted], axis=1)
