"""How LoRA files spell what they hold: one table for the dialects of every program that writes them.

An entry's name is a prefix, a module, and what the tensor is of it:

| program | example |
|---|---|
| lightx2v, ComfyUI | `diffusion_model.blocks.0.self_attn.q.lora_down.weight`, `.lora_up.weight`, `.alpha`, `.diff`, `.diff_b` |
| kohya, musubi-tuner | `lora_unet_blocks_0_self_attn_q.lora_down.weight` |
| peft | `base_model.model.blocks.0.self_attn.q.lora_A.weight`, or `.lora_A.default.weight` |
| VideoX-Fun | `lora_unet__blocks_0_self_attn_q.lora_down.weight` |
| DiffSynth | `blocks.0.self_attn.q.lora_A.default.weight`, or with `pipe.dit.` in front |
| diffusers | `transformer.blocks.0.attn1.to_q.lora_A.weight` |
| LyCORIS | `lycoris_blocks_0_self_attn_q.hada_w1_a`, `.lokr_w1`, `.dora_scale` |

Modules go by their published or their diffusers name. Underscores in place of dots are ambiguous in themselves
(`blocks_0_cross_attn_k_img`), so they are looked up among the modules that the model has.
"""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum

from scail2.checkpoints import official_names as names

_PREFIXES = (
    "base_model.model.", "base_model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "pipe.dit.", "dit.",
    "unet.", "model.", "module.", "lora_unet__", "lora_unet_", "lora_transformer_", "lora_dit_", "lycoris_",
)  # fmt: skip
# What compiling, sharding and adapters put between a module's name and its parameters', at any level.
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer)\.")
_TEXT_ENCODER = re.compile(r"lora_te\d?_|text_encoder(?:_\d)?\.|text_encoders\.|text_model\.|cond_stage_model\.")


class Part(StrEnum):
    """What a tensor is of its module's addition."""

    DOWN = "lora_down"
    UP = "lora_up"
    ALPHA = "alpha"
    DIFF = "diff"
    DIFF_BIAS = "diff_b"
    DIFF_MODULATION = "diff_m"
    MAGNITUDE = "dora_scale"
    HADA_1A = "hada_w1_a"
    HADA_1B = "hada_w1_b"
    HADA_2A = "hada_w2_a"
    HADA_2B = "hada_w2_b"
    KRON_1 = "lokr_w1"
    KRON_1A = "lokr_w1_a"
    KRON_1B = "lokr_w1_b"
    KRON_2 = "lokr_w2"
    KRON_2A = "lokr_w2_a"
    KRON_2B = "lokr_w2_b"


_SPELLINGS = {
    Part.DOWN: r"lora_down|lora_A|lora\.down|lora_linear_layer\.down",
    Part.UP: r"lora_up|lora_B|lora\.up|lora_linear_layer\.up",
    Part.MAGNITUDE: r"dora_scale|lora_magnitude_vector",
    Part.DIFF: r"diff|w_norm",
    Part.DIFF_BIAS: r"diff_b|b_norm",
}
# An adapter's own name may stand before `.weight`.
_ENTRY = re.compile(
    r"(?P<module>.+?)\.(?:"
    + "|".join(f"(?P<{part.name}>{_SPELLINGS.get(part, part.value)})" for part in Part)
    + r")(?:\.(?!weight$|bias$)[^.]+)?(?:\.weight)?"
)


def part_of(name: str) -> tuple[str, Part] | None:
    """The module (its prefixes taken off) and the part that a stored name means; None if it is no LoRA's name."""
    match = _ENTRY.fullmatch(name)
    if match is None:
        return None
    return without_prefix(match["module"]), next(part for part in Part if match[part.name])


def is_lora(stored: Iterable[str]) -> bool:
    """Whether a file's names are those of a LoRA."""
    return any(meant[1] is not Part.ALPHA for name in stored if (meant := part_of(name)))


def without_prefix(module: str) -> str:
    """A module's name without what programs put in front of it and in between."""
    module = _WRAPPERS.sub("", module)
    while found := next((prefix for prefix in _PREFIXES if module.startswith(prefix)), None):
        module = module.removeprefix(found)
    return module


def is_for_text_encoder(name: str) -> bool:
    """Whether a stored name belongs to a text encoder, which some programs train along and write beside."""
    return _TEXT_ENCODER.match(name) is not None


class ModuleNames:
    """The modules of one model under every name that they go by.

    Args:
        parameters: our parameter names.
        written: the modules named in the file that is to be read. They tell its vocabulary: the block's `norm2` has weights
            in ours alone, where it is the published `norm3`.
    """

    def __init__(self, parameters: Iterable[str], written: Iterable[str]):
        modules = {name.rpartition(".")[0] for name in parameters if name.endswith((".weight", ".bias"))}
        published = _flattened({_published(module): module for module in modules})
        ours = _flattened({module: module for module in modules})
        unlike = {name: module for name, module in ours.items() if published.get(name) != module}
        second_norms = {name for name in unlike if name.endswith("norm2")}
        if not any(name in unlike and name not in second_norms for name in written):
            unlike = {name: module for name, module in unlike.items() if name not in second_norms}
        self._modules = published | unlike
        tables = [name for name in parameters if name.endswith("scale_shift_table")]
        self._tables = _flattened({names.to_official_name(name).rpartition(".")[0]: name for name in tables})

    def target(self, module: str, part: Part) -> str | None:
        """Our name of the parameter that a part of a module as written is added to; None if the model has none."""
        if part is Part.DIFF_MODULATION:
            return self._tables.get(module)
        found = self._modules.get(module)
        return found and f"{found}.{'bias' if part is Part.DIFF_BIAS else 'weight'}"


def _published(module: str) -> str:
    return names.to_official_name(f"{module}.weight").removesuffix(".weight")


def _flattened(by_name: Mapping[str, str]) -> dict[str, str]:
    """The same names, and each with underscores for dots; raises RuntimeError if that made two modules one."""
    flat: dict[str, str] = dict(by_name)
    for name, meant in by_name.items():
        if flat.setdefault(name.replace(".", "_"), meant) != meant:
            raise RuntimeError(f"{name} and {flat[name.replace('.', '_')]} are one name with underscores")
    return flat
