"""Training recipes: functions that return a full configuration. `scail2 train NAME` runs one."""

import dataclasses
from collections.abc import Callable
from typing import Any

from scail2.devices import Precision
from scail2.errors import InputError
from scail2.files.public.embedded import embedded_model_path
from scail2.training.config import (
    DataConfig,
    FrozenConfig,
    LoRAConfig,
    LossConfig,
    MixtureKnot,
    OptimizerConfig,
    PreferenceConfig,
    SheetConfig,
    TimestepConfig,
    TrainConfig,
)

# Shares of the sample kinds in a batch of the small checkpoint once it transfers motion.
_NANO_SHARES = {
    "animation_single": 0.55,
    "replacement_single": 0.20,
    "animation_multi": 0.10,
    "replacement_multi": 0.15,
}
# Self-driven samples first: until a clip copies itself nothing is learnt from pairs (docs/nano.md).
_SELF_DRIVEN_UNTIL = 3_500
_PAIRS_ONLY_FROM = 13_000


def _nano_mixture() -> tuple[MixtureKnot, ...]:
    pairs = tuple(_NANO_SHARES.items())
    return (
        MixtureKnot(samples=0, shares=(("self_driven", 1.0),)),
        MixtureKnot(samples=_SELF_DRIVEN_UNTIL, shares=(("self_driven", 1.0),)),
        MixtureKnot(samples=_SELF_DRIVEN_UNTIL + 1, shares=(("self_driven", 0.9), *((k, 0.1 * v) for k, v in pairs))),
        MixtureKnot(samples=_PAIRS_ONLY_FROM, shares=pairs),
    )


def nano() -> TrainConfig:
    """The embedded checkpoint from nothing: windows of two latent frames at a constant learning rate, open-ended."""
    return TrainConfig(
        name="nano",
        model="out/nano/initial",
        steps=1_000_000,
        data=DataConfig(
            shards="out/nano/latents",
            batch_size=16,
            window=2,
            mixture=_nano_mixture(),
            history_probability=0.0,
            middle_history_probability=0.0,
        ),
        timesteps=TimestepConfig(shift=4.0, pure_noise=0.6),
        loss=LossConfig(
            space="sample", reduction="kept", character_weight=2.0, alignment_weight=0.3, alignment_block=2
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            muon_learning_rate=0.03,
            weight_decay=0.0,
            clip_norm=1.0,
            warmup=50,
            decay_from=1.0,
        ),
        ema_decay=0.998,
        compile_blocks=True,
        log_every=20,
        checkpoint_every=250,
    )


def nano_finish() -> TrainConfig:
    """The end of a run of `nano`: learning rate to 2 %, a fifth of the clips whole, clean history."""
    start = nano()
    data = dataclasses.replace(
        start.data,
        whole_share=0.2,
        mixture=(MixtureKnot(samples=0, shares=tuple(_NANO_SHARES.items())),),
        history_probability=0.3,
        middle_history_probability=0.3,
    )
    optimizer = dataclasses.replace(start.optimizer, warmup=0, decay="linear", decay_from=0.0, final_fraction=0.02)
    return dataclasses.replace(
        start, name="nano_finish", steps=1_200, data=data, optimizer=optimizer, checkpoint_every=100
    )


def nano_continue() -> TrainConfig:
    """From weights that already transfer motion (the embedded checkpoint, or it grown): lower rates that fall all along.

    85 % at t = 1, because one step is how it is used. The falling rate does the averaging: a long average would lag behind.
    """
    finish = nano_finish()
    data = dataclasses.replace(finish.data, whole_share=0.1)
    optimizer = dataclasses.replace(
        finish.optimizer, learning_rate=1.4e-3, muon_learning_rate=0.021, warmup=30, final_fraction=0.02
    )
    return dataclasses.replace(
        finish,
        name="nano_continue",
        model=str(embedded_model_path()),
        steps=3_150,
        data=data,
        timesteps=dataclasses.replace(finish.timesteps, pure_noise=0.85),
        optimizer=optimizer,
        ema_decay=0.99,
    )


def finetune() -> TrainConfig:
    """The released fine-tune of the 14B at 704p: 1,000 steps of 16 samples, AdamW, 1 % warm-up, cosine from 2e-6 to a tenth."""
    return TrainConfig(
        name="finetune",
        model="out/scail2-14b",
        steps=1_000,
        data=DataConfig(shards="out/latents", batch_size=1, mixture=_published_mixture()),
        optimizer=OptimizerConfig(
            learning_rate=2e-6,
            betas=(0.9, 0.95),
            weight_decay=1e-4,
            clip_norm=0.1,
            warmup=10,
            decay="cosine",
            final_fraction=0.1,
        ),
        accumulation=16,
        precision=Precision.BFLOAT16,
        gradient_checkpointing=True,
        checkpoint_every=250,
        sheets=SheetConfig(preset="quality"),
    )


def finetune_512p() -> TrainConfig:
    """The released fine-tune at 512p: as `finetune`, at 5e-6."""
    return _with_rate(finetune(), 5e-6, name="finetune_512p")


def stage1() -> TrainConfig:
    """The first stage of the published training, from Wan2.1-I2V-14B: 3,500 steps of 128 samples at 1e-5."""
    return _with_rate(finetune(), 1e-5, name="stage1", steps=3_500, accumulation=128)


def finetune_lora() -> TrainConfig:
    """Low-rank adapters (rank 128) on the 14B's blocks with the fine-tune's data and loss."""
    return _with_rate(finetune(), 1e-4, name="finetune_lora", steps=2_000, lora=LoRAConfig(rank=128))


def finetune_lora_24gb() -> TrainConfig:
    """Adapters of rank 32 on one card of 24 GB: 500 steps of 4 samples; the 14B in int8, visiting block by block."""
    return _with_rate(
        finetune_lora(),
        1e-4,
        name="finetune_lora_24gb",
        steps=500,
        accumulation=4,
        lora=LoRAConfig(rank=32),
        frozen=FrozenConfig(),
        gradient_checkpointing=False,
    )


def dpo() -> TrainConfig:
    """The published second stage: 400 steps of 24 preference pairs, rank-128 adapters at 1e-4, β 5000, λ 0.01, hands."""
    return dataclasses.replace(
        _with_rate(finetune_lora(), 1e-4, name="dpo", steps=400, accumulation=24),
        data=DataConfig(shards="out/preferences", batch_size=1),
        preference=PreferenceConfig(),
        precision=None,
        log_every=5,
        checkpoint_every=50,
    )


def nano_dpo() -> TrainConfig:
    """The same for the embedded checkpoint: its noise levels and loss, smaller adapters.

    At the published β 5000 every preference of its is settled after 40 steps and little more is learnt from it: β is a tenth
    (docs/science.md, "Preferences").
    """
    start = nano_continue()
    return dataclasses.replace(
        start,
        name="nano_dpo",
        model=str(embedded_model_path()),
        steps=400,
        data=DataConfig(shards="out/preferences", batch_size=8, window=2, whole_share=0.2),
        loss=dataclasses.replace(start.loss, alignment_weight=0.0),
        optimizer=dataclasses.replace(dpo().optimizer, learning_rate=1e-4, weight_decay=0.0),
        lora=LoRAConfig(rank=32),
        preference=PreferenceConfig(beta=500.0),
        ema_decay=0.0,
        log_every=5,
        compile_blocks=False,
        checkpoint_every=100,
    )


def nano_lora() -> TrainConfig:
    """Adapters of rank 32 on the embedded checkpoint, its noise levels and loss, on whatever kinds the cache holds."""
    start = nano_dpo()
    return dataclasses.replace(
        start,
        name="nano_lora",
        data=dataclasses.replace(start.data, shards="out/latents"),
        preference=None,
        optimizer=dataclasses.replace(start.optimizer, learning_rate=1e-3, warmup=10),
        log_every=20,
    )


def _with_rate(config: TrainConfig, rate: float, *, steps: int = 1_000, **changes: Any) -> TrainConfig:
    """The published curve for other rates and lengths: one step in a hundred warms up."""
    optimizer = dataclasses.replace(config.optimizer, learning_rate=rate, warmup=steps // 100)
    return dataclasses.replace(config, steps=steps, optimizer=optimizer, **changes)


def _published_mixture() -> tuple[MixtureKnot, ...]:
    shares = (
        ("animation_single", 0.60),
        ("replacement_single", 0.136),
        ("replacement_multi", 0.064),
        ("pose_single", 0.15),
        ("pose_multi", 0.05),
    )
    return (MixtureKnot(samples=0, shares=shares),)


_ALL = (
    nano,
    nano_finish,
    nano_continue,
    nano_lora,
    nano_dpo,
    finetune,
    finetune_512p,
    stage1,
    finetune_lora,
    finetune_lora_24gb,
    dpo,
)
RECIPES: dict[str, Callable[[], TrainConfig]] = {function.__name__: function for function in _ALL}


def recipe(name: str) -> TrainConfig:
    """The configuration of a named recipe."""
    if name not in RECIPES:
        raise InputError(f"There is no training recipe {name!r}; choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]()


def with_overrides(config: TrainConfig, *, rate: float = 1.0, **changes: Any) -> TrainConfig:
    """A copy with learning rates times ``rate``, and with what is given (not None) replaced.

    ``shards`` and ``batch_size`` are its data's, ``sheets_every`` and ``sheets_shards`` its contact sheets'.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    data: dict[str, Any] = {name: given.pop(name) for name in ("shards", "batch_size") if name in given}
    sheets = {name: given.pop(f"sheets_{name}") for name in ("every", "shards") if f"sheets_{name}" in given}
    rates = {f"{name}learning_rate": rate * getattr(config.optimizer, f"{name}learning_rate") for name in ("", "muon_")}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, **data),
        sheets=dataclasses.replace(config.sheets, **sheets),
        optimizer=dataclasses.replace(config.optimizer, **rates),
        **given,
    )
