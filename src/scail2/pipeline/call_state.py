"""What a call that is under way tells others, and how they stop it."""

from __future__ import annotations

from torch import Tensor


class CallState:
    """The state of the pipeline's present or last call: one at a time."""

    _interrupt = False
    _guidance_scale: float | None = None
    _completed = False
    _num_timesteps = 0
    _current_timestep: Tensor | None = None

    @property
    def interrupt(self) -> bool:
        """Set to True, from a callback or another thread, to stop before the next step."""
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = bool(value)

    @property
    def num_timesteps(self) -> int:
        """Steps of the segment being sampled."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """The timestep being computed, for caches that ask (Pyramid Attention Broadcast)."""
        return self._current_timestep
