"""The default when no mask is given: the first of the segmenters that knows what it sees.

Drawn puppets, by the network that ships with the package; somebody before one flat colour, by that colour; real people, by
the extra `people`. Each is asked on a few frames before it works on all of them, and nobody guesses: where none is
sure, the refusal names the ways that there are.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scail2.errors import InputError
from scail2.perception.segmenters.protocol import VideoSegmenter
from scail2.perception.tracks import TrackedMasks
from scail2.request.masks import Prompts
from scail2.video import ArrayFrames, SizedFrames

if TYPE_CHECKING:
    from scail2.perception.segmenters.embedded import EmbeddedSegmenter

_SAMPLES = 8


class AutomaticSegmenter:
    """`VideoSegmenter` that chooses for every clip.

    Args:
        accept: take the best there is even where it is not sure (`--accept-mask`): the user has looked at it.
    """

    name = "automatic"

    def __init__(self, *, accept: bool = False):
        self.accept = accept

    def segment(
        self,
        frames: SizedFrames,
        prompts: Prompts | None = None,
        *,
        directory: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> TrackedMasks:
        """See `VideoSegmenter.segment`. Raises `InputError` where no segmenter here knows what the clip shows."""
        chosen = self.choose(frames, prompts)
        return chosen.segment(frames, prompts, directory=directory, progress=progress)

    def choose(self, frames: SizedFrames, prompts: Prompts | None = None) -> VideoSegmenter:
        """The segmenter for a clip; imports torch, which given masks do without."""
        from scail2.perception.segmenters.people import network as people
        from scail2.perception.segmenters.plain import PlainBackgroundSegmenter, flat_background

        if prompts is not None and prompts.placed:
            return self._people()
        embedded = self._for_puppets
        confidence = float(embedded.confidences(_sampled(frames)).mean())
        if confidence >= embedded.refuse_below:
            return self._embedded(embedded)
        if (colour := flat_background(frames)) is not None:
            return PlainBackgroundSegmenter(colour)
        if people.installed():
            return self._people()
        if self.accept:
            return self._embedded(embedded)
        what = "the reference picture" if len(frames) == 1 else "the driving video"
        option = "--reference-mask FILE (or a picture with transparency)" if len(frames) == 1 else "--driving-mask FILE"
        raise InputError(
            f"the embedded segmenter knows drawn puppets and is not sure about {what} (confidence {confidence:.2f}, needed "
            f"{embedded.refuse_below:.2f}). For real people: pip install 'scail2[people]', or let SAM3 find them "
            f"(`scail2 masks --sam3 WEIGHTS --text person`, then --masks DIR); or supply a mask with {option}."
        )

    @cached_property
    def _for_puppets(self) -> "EmbeddedSegmenter":
        from scail2.perception.segmenters.embedded import EmbeddedSegmenter

        return EmbeddedSegmenter.load()

    def _embedded(self, loaded: "EmbeddedSegmenter") -> VideoSegmenter:
        from scail2.perception.segmenters.embedded import EmbeddedSegmenter

        return EmbeddedSegmenter(loaded.network, loaded.familiarity, refuse_below=0.0) if self.accept else loaded

    def _people(self) -> VideoSegmenter:
        from scail2.perception.segmenters.people.segmenter import PeopleSegmenter

        return PeopleSegmenter(refuse_below=0.0) if self.accept else PeopleSegmenter()


def _sampled(frames: SizedFrames) -> ArrayFrames:
    """A few frames from all over the clip."""
    numbers = np.unique(np.linspace(0, len(frames) - 1, min(_SAMPLES, len(frames))).round().astype(int))
    return ArrayFrames(np.concatenate([frames.frames(int(n), int(n) + 1)[..., :3] for n in numbers]))
