"""What the transformer's inputs and configuration must look like: checked, joined and padded before anything is computed."""

import torch
from torch import nn

from scail2.errors import InputError

# Channels appended to every latent: ones where the content is known (references, driving, clean history), else zeros.
KNOWN_CHANNELS = 4


def join_references(
    latents: torch.Tensor | None,
    masks: torch.Tensor | None,
    additional_reference_latents: torch.Tensor | None,
    additional_reference_masks: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Additional references, then the reference, along time: latents ``(B, C, N+1, H, W)`` and masks."""
    if latents is None or masks is None:
        raise InputError("reference_latents and reference_masks are needed: the network animates a reference picture.")
    if latents.shape[2] != 1:
        raise InputError(
            f"reference_latents has {latents.shape[2]} frames; give one, and others as additional references."
        )
    if (additional_reference_latents is None) != (additional_reference_masks is None):
        raise InputError("additional_reference_latents and additional_reference_masks must be given together.")
    if additional_reference_latents is None or additional_reference_masks is None:
        return latents, masks
    return torch.cat([additional_reference_latents.to(latents), latents], dim=2), torch.cat(
        [additional_reference_masks.to(masks), masks], dim=2
    )


def check_config(config) -> None:
    problems = {
        "patch_size": config.patch_size[0] != 1,
        "in_channels": config.in_channels != config.out_channels + KNOWN_CHANNELS,
        "mask_channels": config.mask_channels != 4 * (1 + config.num_binding_slots),
        "driving_downsample": config.driving_downsample < 1,
        "prediction_type": config.prediction_type not in ("velocity", "sample"),
        "qk_norm": config.qk_norm != "rms_norm_across_heads",
    }
    wanted = {
        "patch_size": "(1, p, p)",
        "in_channels": f"out_channels + {KNOWN_CHANNELS}",
        "mask_channels": "4 * (1 + num_binding_slots)",
        "driving_downsample": "1 (driving video at full size) or more",
        "prediction_type": "'velocity' or 'sample'",
        "qk_norm": "'rms_norm_across_heads'",
    }
    for name, wrong in problems.items():
        if wrong:
            raise InputError(f"transformer config: {name} is {config[name]!r}; it must be {wanted[name]}.")


def check_inputs(
    config,
    noisy: torch.Tensor,
    timestep: torch.Tensor,
    references: torch.Tensor,
    reference_masks: torch.Tensor,
    driving: torch.Tensor | None,
    driving_masks: torch.Tensor | None,
) -> None:
    if driving is None or driving_masks is None:
        raise InputError("driving_latents and driving_masks are needed: the network follows a driving video.")
    batch, _, frames, height, width = noisy.shape
    half = (frames, height // config.driving_downsample, width // config.driving_downsample)
    wanted = {
        "hidden_states": (noisy, (batch, config.out_channels, frames, height, width)),
        "timestep": (timestep, (batch,)),
        "reference_latents, additional ones included,": (
            references,
            (batch, config.out_channels, references.shape[2], height, width),
        ),
        "reference_masks, additional ones included,": (
            reference_masks,
            (batch, config.mask_channels, references.shape[2], height, width),
        ),
        "driving_latents": (driving, (batch, config.out_channels, *half)),
        "driving_masks": (driving_masks, (batch, config.mask_channels, *half)),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise InputError(f"{name} has shape {tuple(tensor.shape)}; it must be {shape}.")


def check_context(
    config, text: torch.Tensor | None, image: torch.Tensor | None, dtype: torch.dtype
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Text zero-padded to ``text_length`` and image embeddings, in ``dtype``; each exactly where the model takes it."""
    for name, value, width in (
        ("encoder_hidden_states", text, config.text_dim),
        ("encoder_hidden_states_image", image, config.image_dim),
    ):
        if (value is None) != (width is None):
            raise InputError(f"{name} is needed by this model." if value is None else f"this model takes no {name}.")
        if value is not None and value.shape[-1] != width:
            raise InputError(f"{name} has width {value.shape[-1]}; this model takes {width}.")
    if text is not None:
        missing = config.text_length - text.shape[1]
        if missing < 0:
            raise InputError(
                f"encoder_hidden_states has {text.shape[1]} tokens; at most {config.text_length} are taken."
            )
        # Padded before its embedding and not masked, as the network was trained.
        text = nn.functional.pad(text.to(dtype), (0, 0, 0, missing)) if missing else text.to(dtype)
    if image is not None:
        if image.shape[1] != config.image_length:
            raise InputError(
                f"encoder_hidden_states_image has {image.shape[1]} tokens; {config.image_length} are taken."
            )
        image = image.to(dtype)
    return text, image
