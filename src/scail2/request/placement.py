"""Where a model's weights lie while it works, and in what form: what `--placement` names, planning chooses and loading does.

Pure data, without torch: the planner reckons with it (`scail2.budget`), the loader carries it out (`scail2.loading`).
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

# Side of the tiles in which an autoencoder works, in pixels.
AUTOENCODER_TILE = 256


class PlacementKind(StrEnum):
    """Which parts of a model are on the device at once; on a CPU, in main memory at once.

    ``resident``: all of them, from the beginning to the end. ``encoders-first``: text and image encoder are loaded, used and
    freed before the transformer comes. ``block-offload`` is that, and of the transformer only the block that works and the
    ones being fetched; ``layer-offload`` only the layer that works. ``auto``: the fastest of them that fits.
    """

    AUTO = "auto"
    RESIDENT = "resident"
    ENCODERS_FIRST = "encoders-first"
    BLOCK_OFFLOAD = "block-offload"
    LAYER_OFFLOAD = "layer-offload"


# What `--offload` said in earlier versions; its default, "off", was nobody's wish.
EARLIER_PLACEMENTS = {
    "off": PlacementKind.AUTO,
    "model": PlacementKind.ENCODERS_FIRST,
    "layers": PlacementKind.LAYER_OFFLOAD,
}


class WeightStorage(StrEnum):
    """How the transformer's large matrices are kept between their uses; norms, tables and the head are never touched.

    ``auto``: as the fastest placement that fits wants them, ``full`` or ``stored``, whose values are the same.
    ``full``: in the type that is computed in. ``stored``: as the file has them (scaled float8, GGUF blocks), brought into
    that type layer by layer. ``fp8``: float8 without scales, likewise (diffusers' layerwise casting). ``int8`` and ``nf4``:
    quantised when loaded, by torchao and bitsandbytes.
    """

    AUTO = "auto"
    FULL = "full"
    STORED = "stored"
    FP8 = "fp8"
    INT8 = "int8"
    NF4 = "nf4"


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """One way of having a model work on a device.

    Attributes:
        kind: which parts are there at once; never ``auto`` once it was chosen.
        storage: form of the transformer's large matrices; never ``auto`` once it was chosen.
        token_chunk: tokens that a block's linear layers take at once (exact, lowers the peak); None: all of them.
        vae_tiled: the autoencoder works in tiles in space, each with the margin it needs for the values of the whole.
        vae_bf16: the autoencoder works in bfloat16 instead of float32.
        prefetched_blocks: blocks fetched ahead under ``block-offload``, each one block's weights more on the device.
        pinned: offloaded weights lie in page-locked main memory, from where they are copied beside the computation.
    """

    kind: PlacementKind = PlacementKind.AUTO
    storage: WeightStorage = WeightStorage.FULL
    token_chunk: int | None = None
    vae_tiled: bool = False
    vae_bf16: bool = False
    prefetched_blocks: int = 1
    pinned: bool = True

    @property
    def offloads(self) -> bool:
        """Whether the transformer's weights wait in main memory."""
        return self.kind in (PlacementKind.BLOCK_OFFLOAD, PlacementKind.LAYER_OFFLOAD)

    @property
    def frees_encoders(self) -> bool:
        """Whether the encoders are gone from the device when the transformer works."""
        return self.kind not in (PlacementKind.AUTO, PlacementKind.RESIDENT)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        """In the words of the command line: ``block-offload, fp8, vae tiled``."""
        words = [str(self.kind)]
        if self.storage is WeightStorage.STORED:
            words += ["weights as stored"]
        elif self.storage not in (WeightStorage.AUTO, WeightStorage.FULL):
            words += [str(self.storage)]
        words += [f"{self.token_chunk} tokens at a time"] if self.token_chunk else []
        words += ["vae tiled"] if self.vae_tiled else []
        words += ["vae bf16"] if self.vae_bf16 else []
        return ", ".join(words)
