"""The keyword arguments of a call, checked by name and kind before anything is computed."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from scail2.errors import InputError, short
from scail2.modes import AnimationMode
from scail2.pipeline.options import StreamOptions


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


# What an argument may be besides None, in words, and the arguments for which that holds.
_KINDS: tuple[tuple[Callable[[Any], bool], str, tuple[str, ...]], ...] = (
    (lambda value: isinstance(value, str), "text", ("prompt", "negative_prompt", "preset", "solver")),
    (
        _is_whole,
        "a whole number",
        (
            "height",
            "width",
            "segment_frame_length",
            "prev_segment_conditioning_frames",
            "start_segment",
            "stop_segment",
        ),
    ),
    (_is_number, "a number", ("guidance_scale", "shift")),
    (lambda value: isinstance(value, torch.Generator), "a torch.Generator", ("generator",)),
    (
        lambda value: isinstance(value, bool),
        "True or False",
        ("equal_segments", "black_out_reference", "allow_mask_mismatch"),
    ),
    (
        lambda value: isinstance(value, Tensor),
        "a tensor",
        ("prompt_embeds", "negative_prompt_embeds", "image_embeds", "history"),
    ),
    (
        lambda value: isinstance(value, list | tuple),
        "a list, also for one of them",
        ("additional_references", "additional_reference_masks"),
    ),
    (callable, "a function", ("history_transform", "callback_on_step_end")),
    (_is_names, "a list of names", ("callback_on_step_end_tensor_inputs",)),
    (lambda value: isinstance(value, Mapping), "a dictionary", ("attention_kwargs",)),
)


def stream_options(arguments: Mapping[str, Any]) -> StreamOptions:
    """The options of one call.

    Raises:
        InputError: ``mode`` is missing, or an argument is of another kind than it must be.
        TypeError: an argument that does not exist, with the name it may have been meant for.
    """
    known = {each.name for each in fields(StreamOptions)}
    for name in arguments:
        if name not in known:
            like = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            raise TypeError(
                f"the pipeline takes no argument {name!r}" + (f"; did you mean {like[0]!r}?" if like else ".")
            )
    if "mode" not in arguments:
        names = " or ".join(f"mode={mode.value!r}" for mode in AnimationMode)
        raise InputError(
            f"mode is missing: give {names}, whose scene the film shows (the reference's, the driving video's)."
        )
    for fits, words, alike in _KINDS:
        for name in alike:
            value = arguments.get(name)
            if value is not None and not fits(value):
                raise InputError(f"{name} is {_told(value)}; it must be {words}.{_hint(name, value)}")
    # None is "as ever" for every option, also for those whose default is not None.
    own = {each.name for each in fields(StreamOptions) if each.default not in (None, MISSING)}
    said = {name for name in own if arguments.get(name) is None}
    return StreamOptions(**{name: value for name, value in arguments.items() if name not in said})


def _told(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return short(value) if isinstance(value, str | int | float) else f"of the kind {type(value).__name__}"


def _hint(name: str, value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) == 1:
        return f" One film is made at a time: {name}[0]."
    if isinstance(value, list | tuple):
        return " One film is made at a time: call once for each."
    if name == "generator" and _is_whole(value):
        return f" For a seed: torch.Generator().manual_seed({value})."
    return ""
