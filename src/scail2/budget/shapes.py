"""The sizes of a model's networks, as far as their cost depends on them, and the parameters that follow; no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from scail2.files.documents import Between

# No width, length or count of any public network comes near; products of such numbers still fit 64 bits.
Count = Annotated[int, Between(1, 2**24)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """A network's weights as its file has them.

    Attributes:
        parameters: how many.
        nbytes: of all of them in the file.
        format: in which most of them are stored, in torch's words (``bfloat16``), or ``GGUF``.
        single_file: whether they are one public file, whose matrices can be kept as they are stored.
    """

    parameters: int = 0
    nbytes: int = 0
    format: str = "float32"
    single_file: bool = False

    @property
    def is_quantised(self) -> bool:
        """Whether they have to be brought into another type before anything is computed with them."""
        return self.format == "GGUF" or self.format.startswith(("float8", "int8"))

    @property
    def can_stay(self) -> bool:
        """Whether `stored` is another form than that."""
        return self.single_file and self.is_quantised


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerShape:
    """A SCAIL-2 transformer: the arguments of `SCAIL2Transformer3DModel`, whose defaults are the published 14B."""

    patch_size: tuple[Count, Count, Count] = (1, 2, 2)
    num_attention_heads: Count = 40
    attention_head_dim: Count = 128
    in_channels: Count = 20
    out_channels: Count = 16
    mask_channels: Count = 28
    text_dim: Count | None = 4096
    freq_dim: Count = 256
    ffn_dim: Count = 13824
    num_layers: Count = 40
    cross_attn_norm: bool = True
    image_dim: Count | None = 1280
    text_length: Count = 512
    image_length: Count = 257
    rope_reference_height_shift: int = 120
    rope_driving_width_shift: int = 120
    driving_downsample: Count = 2
    weights: Weights = Weights()

    @property
    def dim(self) -> int:
        """Width of the network."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def has_context(self) -> bool:
        """Whether blocks attend to a prompt or a picture's embedding."""
        return self.text_dim is not None or self.image_dim is not None

    @property
    def has_image_beside_text(self) -> bool:
        """Whether the picture's embedding has keys and values of its own."""
        return self.text_dim is not None and self.image_dim is not None

    @property
    def block_parameters(self) -> int:
        """Parameters of one block."""
        return sum(math.prod(shape) for shape in block_shapes(self).values())

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(math.prod(shape) for shape in parameter_shapes(self).values())


def block_shapes(shape: TransformerShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one block's parameters, as `SCAIL2Transformer3DModel` calls them behind ``blocks.N.``."""
    width, inner = shape.dim, shape.ffn_dim
    found: dict[str, tuple[int, ...]] = {"scale_shift_table": (1, 6, width)}

    def linear(name: str, outputs: int, inputs: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (outputs, inputs), (outputs,)

    for part in ("attn1", "attn2") if shape.has_context else ("attn1",):
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            linear(f"{part}.{name}", width, width)
        found[f"{part}.norm_q.weight"] = found[f"{part}.norm_k.weight"] = (width,)
    if shape.has_image_beside_text:
        linear("attn2.add_k_proj", width, width)
        linear("attn2.add_v_proj", width, width)
        found["attn2.norm_added_k.weight"] = (width,)
    if shape.has_context and shape.cross_attn_norm:
        found["norm2.weight"] = found["norm2.bias"] = (width,)
    linear("ffn.net.0.proj", inner, width)
    linear("ffn.net.2", width, inner)
    return found


def parameter_shapes(shape: TransformerShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters, as `SCAIL2Transformer3DModel` has them."""
    width, patch = shape.dim, shape.patch_size
    found: dict[str, tuple[int, ...]] = {"scale_shift_table": (1, 2, width)}

    def layer(name: str, *sizes: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = sizes, (sizes[0],)

    for name, channels in (("", shape.in_channels), ("_pose", shape.in_channels), ("_mask", shape.mask_channels)):
        layer(f"patch_embedding{name}", width, channels, *patch)
    embedder = "condition_embedder"
    layer(f"{embedder}.time_embedder.linear_1", width, shape.freq_dim)
    layer(f"{embedder}.time_embedder.linear_2", width, width)
    layer(f"{embedder}.time_proj", 6 * width, width)
    if shape.text_dim is not None:
        layer(f"{embedder}.text_embedder.linear_1", width, shape.text_dim)
        layer(f"{embedder}.text_embedder.linear_2", width, width)
    if shape.image_dim is not None:
        layer(f"{embedder}.image_embedder.norm1", shape.image_dim)
        layer(f"{embedder}.image_embedder.ff.net.0.proj", shape.image_dim, shape.image_dim)
        layer(f"{embedder}.image_embedder.ff.net.2", width, shape.image_dim)
        layer(f"{embedder}.image_embedder.norm2", width)
    for number in range(shape.num_layers):
        found |= {f"blocks.{number}.{name}": sizes for name, sizes in block_shapes(shape).items()}
    layer("proj_out", shape.out_channels * math.prod(patch), width)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderShape:
    """The autoencoder: Wan 2.1's (``base_dim`` given), or the small models' own patch transform with its refiner."""

    base_dim: Count | None = 96
    dim_mult: tuple[Count, ...] = (1, 2, 4, 4)
    num_res_blocks: Count = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    z_dim: Count = 16
    refiner_widths: tuple[Count, ...] = ()
    refiner_blocks: tuple[Count, ...] = ()
    scale_factor_spatial: Count = 8
    scale_factor_temporal: Count = 4
    weights: Weights = Weights()


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoderShape:
    """umT5's encoder: the arguments of its configuration."""

    vocab_size: Count = 256384
    d_model: Count = 4096
    d_kv: Count = 64
    d_ff: Count = 10240
    num_layers: Count = 24
    num_heads: Count = 64
    weights: Weights = Weights()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEncoderShape:
    """CLIP's vision tower: the arguments of its configuration."""

    hidden_size: Count = 1280
    intermediate_size: Count = 5120
    num_hidden_layers: Count = 32
    num_attention_heads: Count = 16
    image_size: Count = 224
    patch_size: Count = 14
    weights: Weights = Weights()


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """All networks of a model; encoders are None where it has none."""

    transformer: TransformerShape
    autoencoder: AutoencoderShape
    text_encoder: TextEncoderShape | None = None
    image_encoder: ImageEncoderShape | None = None
