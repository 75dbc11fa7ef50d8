"""Stages 3 to 6 for one segment: from its driving frames and the history before it to its frames."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

from torch import Tensor

from scail2 import conditions as cond
from scail2.pipeline.call import Call
from scail2.pipeline.driving import DrivingAhead
from scail2.pipeline.stages import EncodedReference, PromptConditions, SegmentOutput
from scail2.pipeline.step_caches import check_token_split
from scail2.segments import Segment


def render_segment(
    pipe: Any,
    call: Call,
    shared: tuple[PromptConditions, EncodedReference],
    driving: DrivingAhead,
    segment: Segment,
    history: Tensor | None,
) -> SegmentOutput | None:
    """One segment of a call by the public stages of a `SCAIL2Pipeline`, or ``None`` when it was interrupted.

    Args:
        shared: what all segments have in common.
        driving: the call's driving video, entered; the next segment's part is got ready beside the denoising.
        history: (overlap, 3, H, W) float, the last output frames of the segment before; ``None`` for the first one.
    """
    prompt, reference = shared
    clock = [time.perf_counter()]
    before = None if history is None else cond.encode_video(pipe.vae, history.transpose(0, 1)[None])
    conditions = cond.assemble(
        mode=call.mode,
        reference=reference.conditions,
        driving=driving.take(segment),
        history_latents=before,
        prompt_embeds=prompt.prompt_embeds,
        image_embeds=reference.image_embeds,
    )
    check_token_split(pipe.transformer, conditions.num_tokens(pipe.geometry))
    noise = pipe.prepare_latents(conditions, call.generator)
    clock.append(time.perf_counter())
    driving.begin_next(segment)
    denoised = pipe.denoise(
        noise.latents,
        conditions,
        call.settings,
        guider=call.guider,
        options=call.options,
        negative_prompt_embeds=prompt.negative_prompt_embeds,
        generator=call.generator,
    )
    driving.settle()
    if not denoised.completed:
        return None
    clock.append(time.perf_counter())
    length = segment.stop - segment.start
    first = max(0, min(segment.overlap, length - call.overlap))  # what is before it was given out, and is no history
    frames = pipe.decode(denoised.latents, range(first, length)).frames[0].transpose(0, 1).cpu()
    clock.append(time.perf_counter())
    seconds = [after - before for before, after in pairwise(clock)]
    return SegmentOutput(
        index=segment.index,
        segment=segment,
        frames=frames[segment.overlap - first :].clone(),
        history=frames[-call.overlap :].clone(),
        generator_state=noise.generator_state,
        next_generator_state=call.generator.get_state(),
        timings=dict(zip(("conditions", "denoise", "decode"), seconds, strict=True)),
    )
