"""Eleven places where diffusers' features go wrong with this network, most of them silently, and the answer to each."""

import logging

import pytest
import torch
from diffusers import (
    ContextParallelConfig,
    DiffusionPipeline,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
)
from diffusers.hooks import TaylorSeerCacheConfig
from diffusers.models._modeling_parallel import ParallelConfig
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from safetensors.torch import save_file
from tiny import bare_pipeline, footage, forward_inputs, patch_vae, tiny_pipeline, tiny_transformer

from scail2.checkpoints.lora import apply_loras, unfuse_loras
from scail2.checkpoints.transformer_files import save_official
from scail2.conditions import ConditionGeometry, SegmentConditions
from scail2.errors import InputError
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.models.transformer import SCAIL2Transformer3DModel
from scail2.pipeline import SCAIL2Pipeline
from scail2.pipeline.step_caches import (
    MagnitudeCacheConfig,
    begin_segment,
    check_caches,
    check_token_split,
    taylorseer_config,
)
from scail2.request.speed import Magnitudes


def output(model, **changes) -> torch.Tensor:
    with torch.no_grad():
        return model(**forward_inputs(model) | changes).sample


def frames(pipe, count: int = 5, **changes) -> torch.Tensor:
    arguments = {"mode": "animation", "num_inference_steps": 3, "output_type": "pt"} | changes
    if pipe.transformer.config.text_dim is not None:
        arguments["prompt"] = "a puppet"
    return pipe(**footage(count), **arguments, generator=torch.Generator().manual_seed(0)).frames


def pyramid(pipe) -> PyramidAttentionBroadcastConfig:
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(0, 1000),
        spatial_attention_block_identifiers=("blocks",),
        current_timestep_callback=lambda: int(pipe.current_timestep),
    )


# 1. Pyramid Attention Broadcast keeps one state for the conditional and the unconditional pass.


def test_1_pyramid_attention_broadcast_is_refused_under_guidance():
    pipe = tiny_pipeline()
    expected = frames(pipe, guidance_scale=1.0)
    pipe.transformer.enable_cache(pyramid(pipe))
    with pytest.raises(InputError, match="switch guidance off"):
        frames(pipe, guidance_scale=5.0)
    assert not torch.equal(frames(pipe, guidance_scale=1.0), expected), "without guidance it runs, and reuses"


def test_1_the_trap_is_there():
    pipe = tiny_pipeline()
    model = pipe.transformer
    pipe._current_timestep = torch.tensor(500)
    other = {"encoder_hidden_states": forward_inputs(model, seed=1)["encoder_hidden_states"]}
    conditional, unconditional = output(model), output(model, **other)
    assert not torch.allclose(conditional, unconditional, atol=1e-4)
    model.enable_cache(
        PyramidAttentionBroadcastConfig(
            cross_attention_block_skip_range=2,
            cross_attention_timestep_skip_range=(0, 1000),
            cross_attention_block_identifiers=("blocks",),
            current_timestep_callback=lambda: 500,
        )
    )
    with model.cache_context("cond"):
        output(model)
    with model.cache_context("uncond"):
        stale = output(model, **other)
    assert not torch.allclose(stale, unconditional, atol=1e-4), "fixed in diffusers? then the refusal can go"


# 2. A cache's residual outlives the segment it was made in.


@pytest.mark.parametrize(
    "config",
    [
        FirstBlockCacheConfig(threshold=1e9),
        MagCacheConfig(threshold=10.0, max_skip_steps=3, num_inference_steps=3, mag_ratios=[1.0] * 3),
        taylorseer_config(cache_interval=3, disable_cache_before_step=1),
    ],
)
def test_2_caches_are_forgotten_between_segments(config):
    pipe = bare_pipeline()
    arguments = footage(13) | {"mode": "animation", "num_inference_steps": 3}
    pipe.transformer.enable_cache(config)
    whole = list(pipe.stream(**arguments, generator=torch.Generator().manual_seed(0)))
    generator = torch.Generator()
    generator.set_state(whole[0].next_generator_state)
    begin_segment(pipe.transformer, torch.zeros(3))
    alone = list(pipe.stream(**arguments, generator=generator, start_segment=1, history=whole[0].history))
    assert torch.equal(alone[0].frames, whole[1].frames)


def test_2_mag_cache_for_another_number_of_steps_is_refused():
    pipe = bare_pipeline()
    arguments = footage(5) | {"mode": "animation", "num_inference_steps": 4}
    pipe.transformer.enable_cache(MagCacheConfig(num_inference_steps=3, mag_ratios=[1.0] * 3))
    with pytest.raises(InputError, match="enabled for 3 steps, and this segment has 4"):
        pipe(**arguments)
    pipe.transformer.disable_cache()
    pipe.transformer.enable_cache(MagnitudeCacheConfig(magnitudes=Magnitudes((1000.0, 0.0), (1.0, 0.0))))
    pipe(**arguments)


# 3. First Block Cache measures its own rank's tokens.


def test_3_first_block_cache_is_refused_under_context_parallelism():
    model = tiny_transformer()
    model.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    check_caches(model, guided=False)
    model._parallel_config = ParallelConfig(context_parallel_config=ContextParallelConfig(ulysses_degree=2))
    with pytest.raises(InputError, match="MagCache"):
        check_caches(model, guided=False)
    model.disable_cache()
    model.enable_cache(MagCacheConfig(num_inference_steps=2, mag_ratios=[1.0] * 2))
    check_caches(model, guided=True)


# 4. TaylorSeer's default patterns match nothing here.


def test_4_taylorseer_that_hooks_nothing_is_refused_and_our_patterns_hook_every_attention():
    model = tiny_transformer()
    model.enable_cache(TaylorSeerCacheConfig())
    with pytest.raises(InputError, match="taylorseer_config"):
        check_caches(model, guided=False)
    model.disable_cache()
    model.enable_cache(taylorseer_config(cache_interval=2))
    check_caches(model, guided=True)
    hooked = [
        n
        for n, m in model.named_modules()
        if "taylorseer_cache" in getattr(getattr(m, "_diffusers_hook", None), "hooks", {})
    ]
    assert hooked == [f"blocks.{i}.attn{j}" for i in range(2) for j in (1, 2)]


# 5. Full differences in LoRA files are dropped; bare keys pass unconverted.


def test_5_differences_are_refused_as_adapters_and_fused_exactly(tmp_path):
    pipe = tiny_pipeline()
    model = pipe.transformer
    plain = output(model)
    bias, weight = torch.randn(24), torch.randn(24, 20, 1, 2, 2)
    down, up = torch.randn(2, 24), torch.randn(24, 2)
    state = {
        "diffusion_model.blocks.0.self_attn.q.lora_down.weight": down,
        "diffusion_model.blocks.0.self_attn.q.lora_up.weight": up,
        "diffusion_model.blocks.0.self_attn.q.diff_b": bias,
        "diffusion_model.patch_embedding_pose.diff": weight,
    }
    path = tmp_path / "distill.safetensors"
    save_file(state, path)
    with pytest.raises(InputError, match="full differences"):
        pipe.load_lora_weights(path)
    assert torch.equal(output(model), plain), "a refused file changes nothing"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apply_loras(model, [(path, 0.5)])
    after = model.state_dict()
    torch.testing.assert_close(after["blocks.0.attn1.to_q.bias"], before["blocks.0.attn1.to_q.bias"] + 0.5 * bias)
    torch.testing.assert_close(
        after["patch_embedding_pose.weight"], before["patch_embedding_pose.weight"] + 0.5 * weight
    )
    torch.testing.assert_close(
        after["blocks.0.attn1.to_q.weight"], before["blocks.0.attn1.to_q.weight"] + 0.5 * up @ down
    )
    unfuse_loras(model)
    assert torch.equal(output(model), plain)


def test_5_keys_without_their_prefix_are_converted_all_the_same():
    pipe = tiny_pipeline()
    down, up = torch.randn(2, 24), torch.randn(24, 2)
    names = "blocks.1.self_attn.k.lora_{}.weight"
    results = []
    for prefix in ("", "diffusion_model."):
        pipe.load_lora_weights({prefix + names.format("down"): down, prefix + names.format("up"): up}, "x")
        results.append(output(pipe.transformer))
        pipe.unload_lora_weights()
    assert torch.equal(*results)
    assert not torch.allclose(results[0], output(pipe.transformer), atol=1e-4)
    with pytest.raises(InputError):
        pipe.load_lora_weights({"blocks.99.self_attn.k.lora_down.weight": down})


# 6. diffusers does not download pipelines of other packages, nor find their classes.


def test_6_from_pretrained_takes_a_folder_and_a_repository(tmp_path):
    folder, cache = tmp_path / "saved", tmp_path / "hub"
    bare_pipeline().save_pretrained(folder)
    expected = frames(SCAIL2Pipeline.from_pretrained(folder))
    with pytest.raises((AttributeError, ValueError, ImportError)):
        DiffusionPipeline.from_pretrained(folder)
    # What a download leaves behind, so that no network is needed: snapshots under the commit that `main` names.
    commit = "0" * 40
    snapshot = cache / "models--someone--puppets" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    (cache / "models--someone--puppets" / "refs").mkdir()
    (cache / "models--someone--puppets" / "refs" / "main").write_text(commit)
    loaded = SCAIL2Pipeline.from_pretrained("someone/puppets", cache_dir=cache, local_files_only=True)
    torch.testing.assert_close(frames(loaded), expected, atol=1e-5, rtol=1e-5)


# 7. Ulysses needs a token count that divides.


def conditions(height: int, width: int, num_frames: int = 81) -> SegmentConditions:
    """Meta tensors of the published model's shapes."""
    h, w, t = height // 8, width // 8, (num_frames - 1) // 4 + 1
    empty = lambda *shape: torch.empty(1, *shape, device="meta")  # noqa: E731
    return SegmentConditions(
        mode="animation",
        reference_latents=empty(16, 1, h, w),
        reference_masks=empty(28, 1, h, w),
        driving_latents=empty(16, t, h // 2, w // 2),
        driving_masks=empty(28, t, h // 2, w // 2),
    )


def test_7_token_counts_that_do_not_divide_are_refused_before_anyone_waits():
    model = tiny_transformer()
    tokens = {size: conditions(*size).num_tokens(ConditionGeometry()) for size in ((480, 832), (512, 896), (704, 1280))}
    assert tokens == {(480, 832): 42510, (512, 896): 48832, (704, 1280): 95920}
    for degree, refused in ((2, ()), (4, (42510,)), (8, (42510,))):
        model._parallel_config = ParallelConfig(context_parallel_config=ContextParallelConfig(ulysses_degree=degree))
        for count in tokens.values():
            if count in refused:
                with pytest.raises(InputError, match="ulysses_anything"):
                    check_token_split(model, count)
            else:
                check_token_split(model, count)
    anything = ContextParallelConfig(ulysses_degree=4, ulysses_anything=True)
    model._parallel_config = ParallelConfig(context_parallel_config=anything)
    check_token_split(model, 42510)


# 8. Per-token modulation would cost gigabytes.


def test_8_modulation_is_one_vector_per_sample():
    model = tiny_transformer()
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[2].shape))
    with torch.no_grad():
        model(**forward_inputs(model, batch=2))
    assert seen == [(2, 6, 24)]


# 9. Wan's autoencoder copies its output again for every latent frame.


class CountingAutoencoder(AutoencoderPatchTransform):
    """The real one, noting how many latent frames it is asked to decode at once."""

    def decode_frames(self, z, frames):
        self.decoded.append(z.shape[2])
        return super().decode_frames(z, frames)


def test_9_decoding_is_per_segment():
    vae = CountingAutoencoder(z_dim=16, num_static_channels=8)
    vae.decoded = []
    assert frames(bare_pipeline(vae=vae), 21).shape[1] == 21
    assert vae.decoded == [3, 3, 3, 3]


# 10. diffusers' single-file loading casts the float32 islands down.


def test_10_a_single_file_in_bfloat16_keeps_the_float32_islands(tmp_path):
    model = tiny_transformer()
    save_official(model, tmp_path / "m.safetensors")
    config = {"num_heads": 2, "text_len": 512}
    single = SCAIL2Transformer3DModel.from_single_file(
        str(tmp_path / "m.safetensors"), original_config=config, torch_dtype=torch.bfloat16
    )
    model.save_pretrained(tmp_path / "folder")
    folder = SCAIL2Transformer3DModel.from_pretrained(tmp_path / "folder", torch_dtype=torch.bfloat16)
    expected = {name: value.dtype for name, value in folder.named_parameters()}
    assert {name: value.dtype for name, value in single.named_parameters()} == expected
    assert sum(dtype == torch.float32 for dtype in expected.values()) > 10


# 11. Global attention backends leak, and Wan's processor cuts text from image tokens by counting from the end.


def test_11_a_run_leaves_the_process_wide_backend_alone_and_pads_text_to_its_exact_length():
    pipe = tiny_pipeline()
    before = _AttentionBackendRegistry.get_active_backend()
    frames(pipe)
    assert _AttentionBackendRegistry.get_active_backend() == before
    seen = []
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"].shape[1]), with_kwargs=True
    )
    frames(pipe)
    assert set(seen) == {512}
    text = forward_inputs(pipe.transformer)["encoder_hidden_states"].clone()
    text[:, 7:] = 0
    short = output(pipe.transformer, encoder_hidden_states=text[:, :7])
    assert torch.equal(short, output(pipe.transformer, encoder_hidden_states=text))
    with pytest.raises(InputError, match="at most 512"):
        output(pipe.transformer, encoder_hidden_states=torch.zeros(1, 513, 16))


def test_no_warning_is_hidden(caplog):
    """What the pipeline logs itself are warnings the user can act on; a clean run has none."""
    with caplog.at_level(logging.WARNING, logger="scail2"):
        frames(bare_pipeline(vae=patch_vae()))
    assert not [record for record in caplog.records if record.name.startswith("scail2")]
