"""What a training run is made of: frozen dataclasses, built by the functions of :mod:`scail2.training.recipes`."""

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

from scail2.devices import Precision
from scail2.files.documents import Between, decode
from scail2.request.placement import WeightStorage

_Count = Annotated[int, Between(1, 10**9)]
_Share = Annotated[float, Between(0, 1)]
_Weight = Annotated[float, Between(0, 1e9)]


@dataclass(frozen=True, kw_only=True, slots=True)
class TimestepConfig:
    """How noise levels t in (0, 1] are drawn (spec: logit-normal, then a shift toward noise).

    ``shift`` is the fixed factor s of t' = s·t / (1 + (s−1)·t); None derives it from the number of tokens in a frame
    (e^μ, μ linear from 0.5 at 256 tokens to 1.15 at 4096). ``pure_noise`` is the share of samples put at t = 1, where the
    conditions are the only source of information.
    """

    mean: float = 0.0
    std: float = 1.0
    shift: float | None = None
    pure_noise: _Share = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The weighting of the flow-matching loss.

    ``space`` "velocity" is the plain ‖v̂ − v‖²; "sample" measures in x0 space, ‖x̂0 − x0‖² / max(t, ``minimum_t``).
    ``reduction`` "all" divides what is left of a sample (history and excluded cells are out) by all its elements, as the
    published training does, so a sample counts as much as is left of it; "kept" divides by the weights that are left in the
    whole batch. Latent cells of characters weigh 1 + ``character_weight``. ``alignment_weight`` adds part supervision of
    hidden states (:mod:`scail2.training.objectives.parts`) read after block ``alignment_block``. ``regions`` are (name, weight)
    of cached regions (of preference samples: hands, faces, feet) whose cells weigh 1 + weight times as much.
    """

    space: Literal["velocity", "sample"] = "velocity"
    reduction: Literal["all", "kept"] = "all"
    minimum_t: float = 0.3
    character_weight: _Weight = 0.0
    alignment_weight: _Weight = 0.0
    alignment_block: int = 2
    regions: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceConfig:
    """Bias-Aware DPO (:mod:`scail2.training.objectives.dpo`) on top of the flow-matching loss of the preferred videos.

    ``beta`` scales the difference of the errors, ``weight`` is λ. ``regions`` are (name, weight) of the cached regions that are
    looked at; a cell counts with the largest weight of the regions that touch it. ``mean_over`` "region" takes the mean of the
    squared error over the region, "all" over all elements, zeros included. A run whose preferred videos' error was, over
    ``patience`` steps, more than ``most_worse`` of itself above the reference's is stopped.
    """

    beta: float = 5000.0
    weight: float = 0.01
    regions: tuple[tuple[str, float], ...] = (("hands", 1.0),)
    mean_over: Literal["region", "all"] = "region"
    patience: _Count = 50
    most_worse: float = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureKnot:
    """Shares of the sample kinds once ``samples`` samples have been seen; linear in between two knots."""

    samples: int
    shares: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which cached samples are drawn and how they are cut.

    ``window`` latent frames at a random place of each clip (None: the whole clip), but whole clips in ``whole_share`` of the
    micro-batches; ``history_probability`` of keeping the
    first ``history_frames`` latent frames clean, ``middle_history_probability`` in samples cut from the middle of a longer
    video (spec §6); ``caption_dropout`` of replacing the prompt by the empty one.
    (Ablations are those of the cached samples.)
    """

    shards: str
    batch_size: _Count = 16
    window: _Count | None = None
    whole_share: _Share = 0.0
    mixture: tuple[MixtureKnot, ...] = ()
    history_probability: _Share = 0.15
    middle_history_probability: _Share = 0.5
    history_frames: _Count = 2
    caption_dropout: _Share = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW, or Muon on the blocks' matrices and convolutions with AdamW on everything else (``muon_learning_rate`` > 0).

    The learning rate rises over ``warmup`` steps, stays flat until ``decay_from`` (a share of the steps) and falls by
    ``decay`` "cosine" or "linear" to ``final_fraction`` of itself. Weight decay is for matrices: biases and the scales of norms
    have none.
    """

    learning_rate: _Weight = 2e-6
    muon_learning_rate: _Weight = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4
    clip_norm: float = 0.1
    warmup: int = 0
    decay: Literal["cosine", "linear"] = "cosine"
    decay_from: _Share = 0.0
    final_fraction: _Share = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LoRAConfig:
    """Low-rank adapters on linear layers of the transformer's blocks instead of a full fine-tune.

    ``target_modules`` are ends of module names inside ``blocks``; the ten of the published adapters are queries, keys, values
    and outputs of both attentions and the two layers of the feed-forward network. ``alpha`` None is the rank: a factor of 1.
    """

    rank: _Count = 128
    alpha: float | None = None
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2")


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenConfig:
    """How a LoRA training keeps the matrices that it does not train (:mod:`scail2.training.frozen`); needs ``lora``.

    ``storage`` full keeps them in ``precision``, which everything is loaded in; int8 and nf4 in fewer bytes. With ``offload``
    they and the blocks' inputs lie in main memory and visit the device block by block. ``token_chunk`` tokens at once go
    through what works token by token. Blocks are checkpointed by this, so that ``gradient_checkpointing`` is off.
    """

    storage: WeightStorage = WeightStorage.INT8
    precision: Precision = Precision.BFLOAT16
    offload: bool = True
    token_chunk: _Count = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetConfig:
    """Contact sheets of a running training: ``rows`` cached samples, drawn every ``every`` steps (0: never) by ``preset``.

    ``shards`` holds the cached samples, best of a split that is not trained on (None: the training data).
    """

    every: int = 0
    rows: int = 6
    preset: str = "nano"
    shards: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run.

    ``model`` is a diffusers folder with a ``transformer`` to start from, ``fused`` LoRA files (PATH or PATH:STRENGTH) that are
    made part of its weights first: what was trained before, for a preference stage say. ``precision`` is what the forward
    pass computes in; without it bfloat16 where the device multiplies it natively, else float32. ``batch_size`` ×
    ``accumulation`` samples make a step. ``gradient_checkpointing`` keeps only the blocks' inputs for the backward pass and
    computes the rest again, but for attention where ``selective_checkpointing`` says so. A step whose loss or gradient is not
    finite changes no weight; ``most_skipped`` of them in a row end the run.
    """

    name: str
    model: str
    steps: _Count
    data: DataConfig
    timesteps: TimestepConfig = field(default_factory=TimestepConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    fused: tuple[str, ...] = ()
    lora: LoRAConfig | None = None
    frozen: FrozenConfig | None = None
    preference: PreferenceConfig | None = None
    seed: Annotated[int, Between(0, 2**63 - 1)] = 0
    accumulation: _Count = 1
    ema_decay: _Share = 0.0
    precision: Precision | None = None
    compile_blocks: bool = False
    gradient_checkpointing: bool = False
    selective_checkpointing: bool = False
    log_every: _Count = 20
    checkpoint_every: _Count = 500
    keep_checkpoints: _Count = 2
    most_skipped: _Count = 5
    sheets: SheetConfig = field(default_factory=SheetConfig)

    def check(self) -> None:
        """Raises `InputError` naming the first setting that cannot be meant."""
        decode(json.loads(json.dumps(asdict(self))), TrainConfig, f"The configuration of {self.name}")
