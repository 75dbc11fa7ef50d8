"""The SCAIL-2 transformer: in-context character animation as one dense attention over one token sequence.

Shape legend: B batch, C latent channels, T/H/W latent grid of the noisy video, N additional references, L tokens,
D width of the network, K binding slots. Mode enters only through positions and masks, never as a branch here.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import FromOriginalModelMixin, PeftAdapterMixin
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from torch import nn

from scail2.errors import InputError
from scail2.models import integration
from scail2.models.blocks import SCAIL2AttnProcessor, build_block
from scail2.models.condition_embedder import SCAIL2ConditionEmbedder, match_weight
from scail2.models.direct import BlockInputs, Context, PictureTokens, is_plain, is_unwatched, through_blocks
from scail2.models.memory import SegmentMemory
from scail2.models.rope import SCAIL2RotaryPosEmbed, TokenLayout
from scail2.models.timesteps import NUM_TRAIN_TIMESTEPS
from scail2.models.transformer_inputs import (
    KNOWN_CHANNELS,
    check_config,
    check_context,
    check_inputs,
    join_references,
)
from scail2.modes import AnimationMode

# Smallest t by which an x0 prediction is turned into a velocity; below it, 1/t would only amplify rounding.
MIN_SAMPLE_TIME = 1e-3


def velocity_from_sample(noisy: torch.Tensor, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Velocity ``v = noise - x0`` of an x0 prediction: ``v = (x_t - x0) / t``, float32.

    It follows from ``x_t = (1 - t) x0 + t noise``.

    Args:
        noisy: ``x_t``, ``(B, ...)``.
        sample: predicted ``x0``, same shape.
        timestep: ``(B,)`` in 0..1000; ``t = timestep / 1000`` is taken no smaller than ``MIN_SAMPLE_TIME``.
    """
    t = (timestep.float() / NUM_TRAIN_TIMESTEPS).clamp(min=MIN_SAMPLE_TIME)
    return (noisy.float() - sample.float()) / t.reshape(-1, *[1] * (noisy.ndim - 1))


class SCAIL2Transformer3DModel(
    ModelMixin, ConfigMixin, PeftAdapterMixin, FromOriginalModelMixin, CacheMixin, AttentionMixin
):
    """SCAIL-2's diffusion transformer (arXiv 2606.10804) over diffusers' own ``WanTransformerBlock``.

    The block class is used as it is, never subclassed: caches, LoRA names, regional compilation and checkpoint
    converters are keyed by it. Defaults are the published 14B.

    Args:
        patch_size: ``(1, p, p)``.
        in_channels: latent channels + 4 known channels.
        out_channels: latent channels.
        mask_channels: 4 sub-frames x (1 + num_binding_slots) planes.
        text_dim: width of text embeddings, None for a model without text.
        image_dim: width of CLIP embeddings, None for a model without them. With neither there is no cross-attention.
        text_length: text tokens; shorter prompts are zero-padded before their embedding and not masked.
        image_length: CLIP tokens.
        rope_theta, rope_reference_height_shift, rope_driving_width_shift: rotary base and mode-specific shifts.
        driving_downsample: 2 = driving latents at half height and width, 1 = at full size.
        prediction_type: what the network predicts, ``"velocity"`` or ``"sample"`` (x0). Its output is a velocity.
    """

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ["patch_embedding", "condition_embedder", "norm", "proj_out"]
    _no_split_modules = ["WanTransformerBlock"]
    _repeated_blocks = ["WanTransformerBlock"]
    # Wan's list plus the projection of the timestep embedding and the head: timestep path and head are float32 here.
    _keep_in_fp32_modules = ["rope", "time_embedder", "time_proj", "scale_shift_table", "proj_out"]
    _keep_in_fp32_modules += ["norm1", "norm2", "norm3"]
    _cp_plan = {
        "rope": {
            0: ContextParallelInput(split_dim=1, expected_dims=4, split_output=True),
            1: ContextParallelInput(split_dim=1, expected_dims=4, split_output=True),
        },
        "blocks.0": {"hidden_states": ContextParallelInput(split_dim=1, expected_dims=3, split_output=False)},
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 20,
        out_channels: int = 16,
        mask_channels: int = 28,
        text_dim: int | None = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = 1280,
        text_length: int = 512,
        image_length: int = 257,
        rope_theta: float = 10000.0,
        rope_reference_height_shift: int = 120,
        rope_driving_width_shift: int = 120,
        driving_downsample: int = 2,
        num_binding_slots: int = 6,
        prediction_type: str = "velocity",
    ):
        super().__init__()
        check_config(self.config)
        dim = num_attention_heads * attention_head_dim
        patch = tuple(patch_size)
        self.rope = SCAIL2RotaryPosEmbed(
            attention_head_dim, rope_theta, rope_reference_height_shift, rope_driving_width_shift, driving_downsample
        )
        self.patch_embedding = nn.Conv3d(in_channels, dim, kernel_size=patch, stride=patch)
        self.patch_embedding_pose = nn.Conv3d(in_channels, dim, kernel_size=patch, stride=patch)
        self.patch_embedding_mask = nn.Conv3d(mask_channels, dim, kernel_size=patch, stride=patch)
        self.condition_embedder = SCAIL2ConditionEmbedder(dim, freq_dim, text_dim, image_dim)
        self.blocks = nn.ModuleList(build_block(self.config) for _ in range(num_layers))
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * math.prod(patch))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.gradient_checkpointing = False

    @classmethod
    def from_single_file(cls, pretrained_model_link_or_path_or_dict, **kwargs):
        """See ``FromOriginalModelMixin``; a local file goes through ``load_transformer``, fp32 islands included."""
        default = super().from_single_file
        return integration.from_single_file(cls, pretrained_model_link_or_path_or_dict, default, **kwargs)

    @integration.scaled_by_loras
    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_hidden_states_image: torch.Tensor | None = None,
        reference_latents: torch.Tensor | None = None,
        reference_masks: torch.Tensor | None = None,
        driving_latents: torch.Tensor | None = None,
        driving_masks: torch.Tensor | None = None,
        mode: AnimationMode | str = AnimationMode.ANIMATION,
        additional_reference_latents: torch.Tensor | None = None,
        additional_reference_masks: torch.Tensor | None = None,
        history_mask: torch.Tensor | None = None,
        return_dict: bool = True,
        frame_offset: int = 0,
        return_prediction: bool = False,
        attention_kwargs: dict[str, Any] | None = None,
        memory: SegmentMemory | None = None,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Velocity of the noisy video.

        All tensors are ``(B, C, T, H, W)`` and are cast to the weights' dtype; ``h, w`` below are ``H, W`` divided by
        ``driving_downsample``. Float32 latents may go through a bfloat16 model: its output is not rounded then.

        Args:
            hidden_states: noisy latents ``(B, C, T, H, W)``; history frames, where there are any, are clean in it.
            timestep: ``(B,)`` in 0..1000.
            encoder_hidden_states: text embeddings ``(B, <=512, text_dim)``; None for a model without text.
            encoder_hidden_states_image: CLIP embeddings ``(B, 257, image_dim)``; None for a model without them.
            reference_latents: ``(B, C, 1, H, W)``.
            reference_masks: ``(B, 28, 1, H, W)``.
            driving_latents: ``(B, C, T, h, w)``.
            driving_masks: ``(B, 28, T, h, w)``.
            mode: chooses the positions.
            additional_reference_latents: ``(B, C, N, H, W)``.
            additional_reference_masks: ``(B, 28, N, H, W)``.
            history_mask: ``(B, 1, T, H, W)`` (or all 4 known channels), one on clean history frames.
            return_dict: False returns a tuple of one tensor.
            frame_offset: the video is a window of a longer segment and begins at this latent frame of it.
            return_prediction: return the network's own prediction (x0 for ``prediction_type="sample"``) as ``sample``.
            attention_kwargs: ``{"scale": s}`` scales loaded LoRA layers.
            memory: what a segment's passes have in common; unused with gradients, hooks, compilation and many devices.

        Returns:
            ``Transformer2DModelOutput(sample)``: ``v = noise - x0``, ``(B, C, T, H, W)``, ``hidden_states``' dtype.

        Raises:
            InputError: an input is missing, not taken by this model, or of the wrong shape.
        """
        noisy, dtype = hidden_states, self.patch_embedding.weight.dtype
        references, reference_masks = join_references(
            reference_latents, reference_masks, additional_reference_latents, additional_reference_masks
        )
        layout = self._layout(noisy, references, mode, frame_offset)
        check_inputs(self.config, noisy, timestep, references, reference_masks, driving_latents, driving_masks)
        text, image = check_context(self.config, encoder_hidden_states, encoder_hidden_states_image, dtype)

        direct = self._is_direct(dtype)
        recall = self._recaller(memory if direct else None)

        # 1. Embed: references and noisy video by one embedding, driving by its own; masks are added to both.
        shown = (references, reference_masks, driving_latents, driving_masks)
        pictures = recall("pictures", (*shown, dtype), lambda: self._embed_pictures(*shown))
        video = _append_known(noisy.to(dtype), _history_or_zeros(history_mask, noisy))
        embedded = _to_tokens(self.patch_embedding(video) + pictures.no_mask)
        hidden_states = torch.cat([pictures.references, embedded, pictures.driving], dim=1)
        # The residual stream is float32 in every model, as where the network was trained: it adds up some 120 results.
        hidden_states = hidden_states.to(torch.promote_types(dtype, torch.float32))

        # 2. Positions: the only place where the mode is seen.
        rotary_emb = self.rope(layout, hidden_states.device)

        # 3. Conditions.
        temb, modulation = self.condition_embedder.embed_time(timestep)
        context = recall("context", (text, image), lambda: self._embed_context(text, image), keep=4)

        # 4. Blocks: each branches off the residual stream in the weights' type.
        inputs = BlockInputs(context, modulation, rotary_emb)
        with _linear_layers_in(dtype, hidden_states.device):
            if direct:
                start = (video, timestep, layout, pictures)
                hidden_states = through_blocks(self.blocks, hidden_states, inputs, layout.video_slice, memory, start)
            else:
                hidden_states = self._call_blocks(hidden_states, inputs)

        # 5. Head. Tokens are cut after proj_out, where context parallelism has gathered all of them.
        shift, scale = (self.scale_shift_table.float() + temb.unsqueeze(1)).to(hidden_states.device).chunk(2, dim=1)
        with torch.autocast(hidden_states.device.type, enabled=False):
            hidden_states = match_weight(self.norm_out(hidden_states.float()) * (1 + scale) + shift, self.proj_out)
            prediction = self.proj_out(hidden_states)
            prediction = self._to_video(prediction if direct else prediction[:, layout.video_slice], layout)
        if self.config.prediction_type == "sample" and not return_prediction:
            prediction = velocity_from_sample(noisy, prediction, timestep)
        prediction = prediction.to(noisy.dtype)
        return Transformer2DModelOutput(sample=prediction) if return_dict else (prediction,)

    def _is_direct(self, dtype: torch.dtype) -> bool:
        """Whether blocks may be passed by `through_blocks`: see there."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or self._parallel_config is not None:
            return False
        if not self.blocks or torch.promote_types(dtype, torch.float32) != torch.float32:
            return False
        return all(map(is_unwatched, self.children())) and all(map(is_plain, self.blocks))

    def _recaller(self, memory: SegmentMemory | None) -> Callable[..., Any]:
        """``memory.recall``, or the same without a memory."""
        if memory is None:
            return lambda kind, inputs, make, **_: make()
        memory.check_weights(self)
        return memory.recall

    def _embed_pictures(
        self,
        references: torch.Tensor,
        reference_masks: torch.Tensor,
        driving: torch.Tensor,
        driving_masks: torch.Tensor,
    ) -> PictureTokens:
        dtype = self.patch_embedding.weight.dtype
        references, driving = (_append_known(x.to(dtype), x.new_ones(())) for x in (references, driving))
        references = self.patch_embedding(references) + self.patch_embedding_mask(reference_masks.to(dtype))
        driving = self.patch_embedding_pose(driving) + self.patch_embedding_mask(driving_masks.to(dtype))
        # Noisy tokens carry the zero mask, whose embedding still adds its bias: one patch of it stands for all.
        empty = references.new_zeros(1, self.config.mask_channels, *self.config.patch_size)
        return PictureTokens(_to_tokens(references), _to_tokens(driving), self.patch_embedding_mask(empty))

    def _embed_context(self, text: torch.Tensor | None, image: torch.Tensor | None) -> Context:
        return Context(self.condition_embedder.embed_context(text, image))

    def _call_blocks(self, hidden_states: torch.Tensor, inputs: BlockInputs) -> torch.Tensor:
        others = (inputs.context.tokens, inputs.modulation, inputs.rotary_emb)
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden_states = self._gradient_checkpointing_func(block, hidden_states, *others)
            else:
                hidden_states = block(hidden_states, *others)
        return hidden_states

    def _layout(
        self, noisy: torch.Tensor, references: torch.Tensor, mode: AnimationMode | str, frame_offset: int
    ) -> TokenLayout:
        _, _, frames, height, width = noisy.shape
        _, patch_height, patch_width = self.config.patch_size
        step_h, step_w = (patch * self.config.driving_downsample for patch in (patch_height, patch_width))
        if height % step_h or width % step_w:
            raise InputError(
                f"hidden_states is {height}x{width} latents; height must be a multiple of {step_h} and "
                f"width of {step_w}."
            )
        grid = (frames, height // patch_height, width // patch_width)
        return self.rope.layout(AnimationMode.parse(mode), grid, references.shape[2] - 1, frame_offset)

    def _to_video(self, tokens: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
        """Head output ``(B, tokens, p*p*C)`` -> ``(B, C, T, H, W)``."""
        _, patch_height, patch_width = self.config.patch_size
        grid = (layout.frames, layout.height, layout.width)
        video = tokens.reshape(tokens.shape[0], *grid, patch_height, patch_width, -1)
        return video.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


def _linear_layers_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager:
    """Has linear layers and attention of a half-precision model take the float32 residual stream's branches in ``dtype``.

    Autocast, because the weights do not always show the type they work in: some are quantised, some cast by a hook on use.
    """
    return torch.autocast(device.type, dtype=dtype) if dtype.itemsize < 4 else nullcontext()


def _to_tokens(grid: torch.Tensor) -> torch.Tensor:
    """``(B, D, t, h, w)`` -> ``(B, t*h*w, D)``."""
    return grid.flatten(2).transpose(1, 2)


def _append_known(latents: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Append the known channels, ``known`` broadcastable to ``(B, 1, T, H, W)`` or ``(B, 4, T, H, W)``."""
    batch, _, *grid = latents.shape
    return torch.cat([latents, known.to(latents.dtype).expand(batch, KNOWN_CHANNELS, *grid)], dim=1)


def _history_or_zeros(history_mask: torch.Tensor | None, noisy: torch.Tensor) -> torch.Tensor:
    batch, _, *grid = noisy.shape
    if history_mask is None:
        return noisy.new_zeros(batch, KNOWN_CHANNELS, *grid)
    if tuple(history_mask.shape) not in ((batch, channels, *grid) for channels in (1, KNOWN_CHANNELS)):
        raise InputError(f"history_mask has shape {tuple(history_mask.shape)}; it must be {(batch, 1, *grid)}.")
    return history_mask.to(noisy.dtype).expand(batch, KNOWN_CHANNELS, *grid)


integration.register_transformer(SCAIL2Transformer3DModel)
integration.register_attention(SCAIL2AttnProcessor)
