"""The driving video of one segment after the other, got ready beside the denoising of the one before.

Reading (decoding, converting and resizing a film's frames) leaves a GPU alone and a processor's other cores idle, so it is
always done ahead. Encoding is done ahead only where there are cores to spare: elsewhere it would take from the denoising what
it saves, and on a GPU hold the autoencoder's activations beside the transformer's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor, nn

from scail2.conditions import DrivingConditions
from scail2.devices import without_gradients
from scail2.pipeline.beside import Beside
from scail2.pipeline.call import Call
from scail2.segments import Segment
from scail2.video.convert import to_float

# Cores of which one can encode while the others denoise; with two, the 4 % that are gained were lost again.
_CORES_TO_SPARE = 4

_Pixels = tuple[np.ndarray, np.ndarray]


class DrivingAhead(Beside[_Pixels | DrivingConditions]):
    """The driving video of a call's segments as latents; enter it, and take the segments in their order.

    Args:
        encode: stage 3 of the pipeline.
        vae: what ``encode`` encodes with.
    """

    def __init__(self, call: Call, encode: Callable[[Tensor, Tensor], DrivingConditions], vae: nn.Module) -> None:
        super().__init__("driving")
        self._call, self._encode, self._vae = call, encode, vae
        self._ready: _Pixels | DrivingConditions | Exception | None = None

    def take(self, segment: Segment) -> DrivingConditions:
        """A segment's driving video as latents: finished now, if it was begun before. Raises what went wrong then."""
        ready, self._ready = self._ready, None
        if isinstance(ready, Exception):
            raise ready
        if ready is None:
            ready = self._call.window(segment)
        return ready if isinstance(ready, DrivingConditions) else self._encoded(ready)

    def begin_next(self, segment: Segment) -> None:
        """Begins to get the segment after this one ready, if the call has one. The autoencoder must be left alone now."""
        following = next((each for each in self._call.segments if each.index == segment.index + 1), None)
        if following is not None:
            encodes = encodes_beside(self._vae)
            self.do(lambda: self._prepare(following, encodes=encodes))

    def settle(self) -> None:
        """Waits for what was begun: from here on the films may be read and the autoencoder used again.

        An error is kept for the segment it belongs to: the one that was denoised meanwhile is to be finished.
        """
        try:
            self._ready = self.wait()
        except Exception as error:
            self._ready = error

    def __exit__(self, kind: type[BaseException] | None, *others: Any) -> None:
        with nullcontext() if kind is None else suppress(Exception):  # what failed first is told
            super().__exit__(kind, *others)

    def _prepare(self, segment: Segment, *, encodes: bool) -> _Pixels | DrivingConditions:
        pixels = self._call.window(segment)
        return self._encoded(pixels) if encodes else pixels

    @without_gradients  # a thread has a switch of its own
    def _encoded(self, pixels: _Pixels) -> DrivingConditions:
        frames, masks = pixels
        return self._encode(to_float(frames).transpose(0, 1).unsqueeze(0), torch.from_numpy(masks).unsqueeze(0))


def encodes_beside(vae: nn.Module) -> bool:
    """Whether an autoencoder may encode in another thread than the one that denoises, and gains by it.

    Not with hooks in it, which move weights for the one thread they know of, nor under autocast, which is the thread's own.
    """
    if get_module_execution_device(vae).type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    hooked = any(hasattr(part, "_hf_hook") or hasattr(part, "_diffusers_hook") for part in vae.modules())
    return not hooked and cores() >= _CORES_TO_SPARE


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
