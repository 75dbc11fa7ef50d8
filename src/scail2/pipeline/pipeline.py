"""``SCAIL2Pipeline``: six stages, a generator over segments, and the usual diffusers call on top.

Every stage is public, gets all it needs as arguments and returns a frozen dataclass. A segment is a pure function of
its conditions, the history before it and the generator's state, so a run can be left and entered again at any segment.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from typing import Any, Literal, Unpack, overload

import torch
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import get_module_execution_device, randn_tensor
from torch import Tensor

from scail2 import conditions as cond
from scail2.conditions import ConditionGeometry, DrivingConditions, SegmentConditions
from scail2.devices import without_gradients
from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.pipeline.arguments import stream_options
from scail2.pipeline.call import check_call, plan_segments
from scail2.pipeline.call_state import CallState
from scail2.pipeline.driving import DrivingAhead
from scail2.pipeline.embeds import picture_embeds, prompt_conditions
from scail2.pipeline.guidance import VelocityPredictor, call_back, needs_negative
from scail2.pipeline.lora_loader import SCAIL2LoraLoaderMixin
from scail2.pipeline.options import CALLBACK_TENSORS, StreamArguments, StreamOptions, takes_stream_options
from scail2.pipeline.output import Frames, OutputType, SCAIL2PipelineOutput, check_output_type, video_as
from scail2.pipeline.sampling import fresh_scheduler, set_timesteps, sigma_at, take_step
from scail2.pipeline.saved import SavedPipeline
from scail2.pipeline.segment import render_segment
from scail2.pipeline.settings import SamplingSettings
from scail2.pipeline.stages import (
    DecodedSegment,
    DenoisedSegment,
    EncodedReference,
    PreparedLatents,
    PromptConditions,
    SegmentOutput,
)
from scail2.pipeline.step_caches import begin_segment
from scail2.pipeline.visiting import VisitedByEncoders
from scail2.segments import SegmentPlan


class SCAIL2Pipeline(SavedPipeline, CallState, VisitedByEncoders, SCAIL2LoraLoaderMixin):
    """Animate a reference picture by a driving video, or put its character into the driving video's scene.

    Args:
        transformer: ``SCAIL2Transformer3DModel``.
        vae: ``AutoencoderKLWan`` or an autoencoder of its interface (``encode``, ``decode``, ``config.z_dim``,
            ``latents_mean``, ``latents_std``, ``scale_factor_temporal``, ``scale_factor_spatial``).
        scheduler: any flow-matching scheduler; used when a call names neither a preset nor a solver.
        text_encoder, tokenizer: umT5; without them (and an ``encoder_source``) a model that takes text needs
            ``prompt_embeds``.
        image_encoder, image_processor: CLIP vision; likewise a model that takes CLIP features, and ``image_embeds``.
        guider: a diffusers guider; without it, ``guidance_scale`` other than 1 means classifier-free guidance.
        default_preset: name of the preset for calls that name none.
        segment_frame_length, prev_segment_conditioning_frames: frames of a segment and of its overlap with the one
            before, as the checkpoint was trained; both 4n+1.
        native_height, native_width: the size the checkpoint was trained around; runs derive their size from it.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->transformer->vae"
    _optional_components = ["text_encoder", "tokenizer", "image_encoder", "image_processor", "guider"]
    _callback_tensor_inputs = list(CALLBACK_TENSORS)

    def __init__(
        self,
        transformer: Any,
        vae: Any,
        scheduler: SchedulerMixin,
        text_encoder: Any = None,
        tokenizer: Any = None,
        image_encoder: Any = None,
        image_processor: Any = None,
        guider: BaseGuidance | None = None,
        default_preset: str = "quality",
        segment_frame_length: int = 81,
        prev_segment_conditioning_frames: int = 5,
        native_height: int = 512,
        native_width: int = 896,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer,
            vae=vae,
            scheduler=scheduler,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            image_encoder=image_encoder,
            image_processor=image_processor,
            guider=guider,
        )
        self.register_to_config(
            default_preset=default_preset,
            segment_frame_length=segment_frame_length,
            prev_segment_conditioning_frames=prev_segment_conditioning_frames,
            native_height=native_height,
            native_width=native_width,
        )

    @property
    def geometry(self) -> ConditionGeometry:
        """What the transformer expects of its inputs' sizes."""
        return ConditionGeometry.of(self.transformer)

    # ---- stages ------------------------------------------------------------------------------------------------

    def encode_prompt(
        self,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        *,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        with_negative: bool = False,
    ) -> PromptConditions:
        """Stage 1: text to embeddings (1, 512, text_dim), zero behind the last token.

        Precomputed embeddings are taken as they are. ``with_negative`` asks for the negative prompt's embeddings too
        (the empty prompt's when none is given). A model without text gives ``None`` and refuses any text.
        """
        config = self.transformer.config
        missing = prompt_embeds is None or (with_negative and negative_prompt_embeds is None)
        with self.text_encoder_for_use(needed=missing and config.text_dim is not None) as encoder:
            return prompt_conditions(
                (config, *encoder),
                (prompt, negative_prompt),
                (prompt_embeds, negative_prompt_embeds),
                with_negative=with_negative,
            )

    def encode_reference(
        self,
        reference: Tensor,
        reference_mask: Tensor,
        *,
        mode: AnimationMode | str,
        additional_references: Tensor | None = None,
        additional_reference_masks: Tensor | None = None,
        image_embeds: Tensor | None = None,
        black_out_reference: bool = True,
    ) -> EncodedReference:
        """Stage 2: the reference pictures to latents, and the primary one to CLIP embeddings.

        Args: see ``conditions.encode_references``; ``image_embeds`` (1, 257, image_dim) replaces running CLIP.
        """
        seen = cond.seen_reference(reference, reference_mask, mode=mode, black_out_reference=black_out_reference)
        config = self.transformer.config
        with self.image_encoder_for_use(needed=image_embeds is None and config.image_dim is not None) as encoder:
            image_embeds = picture_embeds(config, *encoder, seen, image_embeds)
        return EncodedReference(
            conditions=cond.encode_references(
                self.vae,
                mode=mode,
                reference=reference,
                reference_mask=reference_mask,
                additional_references=additional_references,
                additional_reference_masks=additional_reference_masks,
                black_out_reference=black_out_reference,
            ),
            image_embeds=image_embeds,
        )

    def encode_driving(self, driving: Tensor, driving_mask: Tensor) -> DrivingConditions:
        """Stage 3: one segment's driving frames (B, 3, T, H, W) and masks (B, T, H, W, 3) uint8 to latents."""
        return cond.encode_driving(self.vae, self.geometry, driving=driving, driving_mask=driving_mask)

    def prepare_latents(self, conditions: SegmentConditions, generator: torch.Generator) -> PreparedLatents:
        """Stage 4: draw a segment's noise, recording the generator's state before and after."""
        before = generator.get_state()
        device = get_module_execution_device(self.transformer)
        latents = randn_tensor(conditions.latent_shape, generator=generator, device=device, dtype=torch.float32)
        return PreparedLatents(
            latents=latents, generator_state=before, next_generator_state=generator.get_state().clone()
        )

    @without_gradients
    def denoise(
        self,
        latents: Tensor,
        conditions: SegmentConditions,
        settings: SamplingSettings,
        *,
        guider: BaseGuidance | None = None,
        options: StreamOptions | None = None,
        negative_prompt_embeds: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> DenoisedSegment:
        """Stage 5: from noise to clean latents, with a scheduler of its own.

        Args:
            latents: noise (B, C, Tl, h, w) float32. History frames in ``conditions`` replace its first frames before
                every step and after the last one.
            guider: from ``guidance.choose_guider``; ``None`` runs one forward pass per step.
            options: for its callback and ``attention_kwargs``.
            generator: noise of stochastic schedulers.
        """
        device, dtype = get_module_execution_device(self.transformer), self.transformer.dtype
        scheduler = fresh_scheduler(self.scheduler, settings)
        set_timesteps(scheduler, settings.steps, device)
        begin_segment(self.transformer, scheduler.timesteps)
        self._num_timesteps = len(scheduler.timesteps)
        predict = VelocityPredictor(
            transformer=self.transformer,
            conditions=conditions.to(device, dtype),
            guider=copy.deepcopy(guider),  # its step counters and momentum live for one segment
            negative_prompt_embeds=None if negative_prompt_embeds is None else negative_prompt_embeds.to(device, dtype),
            num_steps=self._num_timesteps,
            attention_kwargs=options.attention_kwargs if options else None,
        )
        latents = latents.to(device)
        with self.progress_bar(total=self._num_timesteps) as progress:
            for step, timestep in enumerate(scheduler.timesteps):
                if self._interrupt:
                    return DenoisedSegment(latents=latents, completed=False)
                self._current_timestep = timestep
                latents = conditions.with_history(latents)
                velocity = predict(latents, timestep, step, sigma_at(scheduler, step))
                latents = take_step(scheduler, velocity, timestep, latents, generator)
                if options is not None and options.callback_on_step_end is not None:
                    latents, predict = call_back(self, options, (step, timestep), latents, predict)
                progress.update()
        return DenoisedSegment(latents=conditions.with_history(latents), completed=True)

    def decode(self, latents: Tensor, frames: range | None = None) -> DecodedSegment:
        """Stage 6: one segment's latents to frames, all or those asked for.

        The autoencoder's causal memory starts afresh with each segment.
        """
        return DecodedSegment(frames=cond.decode_latents(self.vae, latents, frames))

    # ---- whole videos ------------------------------------------------------------------------------------------

    def plan(self, num_frames: int, options: StreamOptions) -> SegmentPlan:
        """The segments of a driving video of ``num_frames`` frames."""
        return plan_segments(self, num_frames, options)

    @takes_stream_options
    @without_gradients
    def stream(
        self, image: Any, driving_video: Any, reference_mask: Any, driving_mask: Any, **options: Unpack[StreamArguments]
    ) -> Generator[SegmentOutput, None, None]:
        """Generate a video segment by segment, giving out each one as soon as it is finished.

        Nothing but the current segment and the next one's driving frames are held in memory; those are read in a thread of
        their own. Stopping early is closing the iterator, raising in a callback, or setting ``interrupt``: the segment
        that was under way is dropped, finished ones have been given. To go on later, pass ``start_segment=k``, ``history``
        from segment k-1, and a generator set to segment k-1's ``next_generator_state``: the frames are the same bit for bit.

        Args:
            image: the reference picture: PIL image, uint8 array (H, W, 3) or float tensor (3, H, W) in [-1, 1].
            driving_video: uint8 array (T, H, W, 3), float tensor (T, 3, H, W), list of pictures or a frame source;
                resized to cover and cropped to the centre.
            reference_mask: palette picture like ``image``, or bool (S, H, W), one plane per character.
            driving_mask: palette video like ``driving_video``, or bool (S, T, H, W).
            options: see ``scail2.pipeline.options.StreamOptions``.

        Raises:
            InputError: anything missing or contradicting, before the first segment is begun.
        """
        self._interrupt = self._completed = False
        try:
            call = check_call(self, image, driving_video, reference_mask, driving_mask, stream_options(options))
            prompt = self.encode_prompt(
                call.options.prompt,
                call.options.negative_prompt,
                prompt_embeds=call.options.prompt_embeds,
                negative_prompt_embeds=call.options.negative_prompt_embeds,
                with_negative=needs_negative(call.guider),
            )
            reference = self.encode_reference(
                call.reference,
                call.reference_mask,
                mode=call.mode,
                additional_references=call.additional_references,
                additional_reference_masks=call.additional_reference_masks,
                image_embeds=call.options.image_embeds,
                black_out_reference=call.options.black_out_reference,
            )
            history = call.history
            with DrivingAhead(call, self.encode_driving, self.vae) as driving:
                for segment in call.segments:
                    output = render_segment(self, call, (prompt, reference), driving, segment, history)
                    if output is None:
                        return
                    if call.options.history_transform is not None:
                        output = call.options.history_transform(output)
                    history = output.history
                    yield output
            self._completed = True
        finally:
            self._current_timestep = None
            self.maybe_free_model_hooks()

    @overload
    def __call__(
        self, image: Any, driving_video: Any, reference_mask: Any, driving_mask: Any, *, output_type: OutputType = "np",
        return_dict: Literal[True] = True, **options: Unpack[StreamArguments],
    ) -> SCAIL2PipelineOutput: ...  # fmt: skip

    @overload
    def __call__(
        self, image: Any, driving_video: Any, reference_mask: Any, driving_mask: Any, *, output_type: OutputType = "np",
        return_dict: Literal[False], **options: Unpack[StreamArguments],
    ) -> tuple[Frames]: ...  # fmt: skip

    @takes_stream_options
    def __call__(
        self,
        image: Any,
        driving_video: Any,
        reference_mask: Any,
        driving_mask: Any,
        *,
        output_type: OutputType = "np",
        return_dict: bool = True,
        **options: Unpack[StreamArguments],
    ) -> SCAIL2PipelineOutput | tuple[Frames]:
        """Generate the whole video: as many frames as the driving video has. Arguments as for :meth:`stream`.

        All frames are held in memory; for long videos write out the segments that :meth:`stream` gives.
        """
        check_output_type(output_type)
        outputs = [o.frames for o in self.stream(image, driving_video, reference_mask, driving_mask, **options)]
        if not outputs:
            raise InputError("the run was interrupted before its first segment was finished: there are no frames.")
        frames = video_as(output_type, torch.cat(outputs))
        if not return_dict:
            return (frames,)
        return SCAIL2PipelineOutput(frames=frames, completed=self._completed)
