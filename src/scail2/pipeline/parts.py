"""Whether a pipeline's components belong together, asked before a call computes anything."""

from __future__ import annotations

from typing import Any

from diffusers.schedulers.scheduling_utils import SchedulerMixin

from scail2.errors import InputError

_VAE_WORDS = ("z_dim", "latents_mean", "latents_std", "scale_factor_temporal", "scale_factor_spatial")


def check_parts(transformer: Any, vae: Any, scheduler: Any, *, samples: bool) -> None:
    """Raises `InputError` where a component was exchanged for one that does not fit.

    Args:
        samples: whether the scheduler component is what samples, because the call names neither a preset nor a solver.
    """
    config = getattr(transformer, "config", None) or {}
    if "mask_channels" not in config:
        raise InputError(f"transformer is {_kind(transformer)}; this pipeline needs a SCAIL2Transformer3DModel.")
    own = getattr(vae, "config", None) or {}
    if missing := [word for word in _VAE_WORDS if word not in own]:
        raise InputError(
            f"vae is {_kind(vae)}, whose configuration has no {missing[0]}: a video autoencoder such as AutoencoderKLWan is "
            "needed, the one the transformer was trained with."
        )
    if own["z_dim"] != config["out_channels"]:
        raise InputError(
            f"vae makes latents of {own['z_dim']} channels, the transformer is made for {config['out_channels']}: they belong to "
            "different models."
        )
    if not isinstance(scheduler, SchedulerMixin):
        raise InputError(f"scheduler is {_kind(scheduler)}; it must be a scheduler of diffusers, made, not its class.")
    if samples and not is_flow_matching(scheduler):
        raise InputError(
            f"scheduler is {_kind(scheduler)}, which is not set up for flow matching, as this model needs: take "
            "FlowMatchEulerDiscreteScheduler, or UniPCMultistepScheduler(prediction_type='flow_prediction', "
            "use_flow_sigmas=True), or name a solver in the call (solver='unipc')."
        )


def is_flow_matching(scheduler: SchedulerMixin) -> bool:
    """Whether a scheduler of diffusers takes velocities ``noise - x0`` on straight paths."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        return True
    config = scheduler.config
    return bool(config.get("use_flow_sigmas")) and config.get("prediction_type") == "flow_prediction"


def _kind(part: Any) -> str:
    if part is None:
        return "missing"
    return f"the class {part.__name__}" if isinstance(part, type) else f"a {type(part).__name__}"
