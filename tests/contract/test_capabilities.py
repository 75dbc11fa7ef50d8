"""What diffusers gives its models, through this model's own classes: one test per capability."""

import importlib.util
import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import (
    ClassifierFreeGuidance,
    ContextParallelConfig,
    FirstBlockCacheConfig,
    LayerSkipConfig,
    MagCacheConfig,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    TorchAoConfig,
)
from diffusers.hooks.context_parallel import apply_context_parallel
from diffusers.models._modeling_parallel import ParallelConfig
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from safetensors.torch import load_file, save_file
from tiny import bare_pipeline, footage, forward_inputs, patch_vae, tiny_pipeline, tiny_transformer, tiny_vae
from torch.distributed.device_mesh import init_device_mesh

from scail2.checkpoints.transformer_files import save_official
from scail2.errors import InputError
from scail2.loading.components import load_transformer
from scail2.models.transformer import SCAIL2Transformer3DModel
from scail2.pipeline import SCAIL2Pipeline
from scail2.pipeline.step_caches import taylorseer_config

FLOAT32_ISLANDS = ("time_embedder", "time_proj", "scale_shift_table", "norm1", "norm2", "norm3", "proj_out")


@pytest.fixture
def model():
    return tiny_transformer()


def output(model, **changes) -> torch.Tensor:
    with torch.no_grad():
        return model(**forward_inputs(model) | changes).sample


def assert_same_model(loaded, model) -> None:
    """Every weight bit for bit; outputs but for rounding, since kernels round by where the file's pages lie."""
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    torch.testing.assert_close(output(loaded), output(model), atol=1e-5, rtol=1e-5)


def test_save_and_load(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = SCAIL2Transformer3DModel.from_pretrained(tmp_path)
    for name, value in model.config.items():
        if not name.startswith("_"):
            assert loaded.config[name] == (list(value) if isinstance(value, tuple) else value), name
    assert_same_model(loaded, model)


def test_sharded_save_and_load(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert set(index["weight_map"]) == set(model.state_dict())
    assert_same_model(SCAIL2Transformer3DModel.from_pretrained(tmp_path), model)


def test_bfloat16_keeps_the_float32_islands(model, tmp_path):
    model.save_pretrained(tmp_path)
    half = SCAIL2Transformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in half.named_parameters()}
    for name, dtype in dtypes.items():
        island = any(part in name for part in FLOAT32_ISLANDS)
        assert dtype == (torch.float32 if island else torch.bfloat16), name
    assert set(dtypes.values()) == {torch.float32, torch.bfloat16}
    result = output(half, hidden_states=forward_inputs(half)["hidden_states"].bfloat16())
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), output(model), atol=0.1, rtol=0.1)


def test_device_map(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = SCAIL2Transformer3DModel.from_pretrained(tmp_path, device_map="cpu")
    assert_same_model(loaded, model)
    assert model._no_split_modules == [WanTransformerBlock.__name__]


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
def test_int8_weights_through_torchao(model, tmp_path):
    from torchao.quantization import Int8WeightOnlyConfig

    model.save_pretrained(tmp_path)
    quantised = SCAIL2Transformer3DModel.from_pretrained(
        tmp_path, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()), torch_dtype=torch.float32
    )
    assert type(quantised.blocks[0].attn1.to_q.weight) is not torch.nn.Parameter
    assert quantised.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert not torch.equal(output(quantised), output(model))
    torch.testing.assert_close(output(quantised), output(model), atol=0.05, rtol=0.05)


def test_layerwise_casting_stores_linear_layers_in_fp8_and_computes_in_float32(model):
    expected = output(model)
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert dtypes["blocks.0.attn1.to_q.weight"] == torch.float8_e4m3fn
    for name, dtype in dtypes.items():
        if any(part in name for part in ("patch_embedding", "condition_embedder", "norm")):
            assert dtype == torch.float32, name
    result = output(model)
    assert not torch.equal(result, expected)
    torch.testing.assert_close(result, expected, atol=0.2, rtol=0.2)


@pytest.mark.parametrize(
    "offload", [{"offload_type": "block_level", "num_blocks_per_group": 1}, {"offload_type": "leaf_level"}]
)
def test_group_offload(model, offload):
    expected = output(model)
    cpu = torch.device("cpu")
    model.enable_group_offload(onload_device=cpu, offload_device=cpu, **offload)
    assert torch.equal(output(model), expected)
    assert torch.equal(output(model), expected)


def test_a_group_offloaded_pipeline_gives_the_same_frames():
    def frames(pipe):
        generator = torch.Generator().manual_seed(0)
        return pipe(
            **footage(13), mode="animation", num_inference_steps=2, generator=generator, output_type="pt"
        ).frames

    pipe = bare_pipeline()
    expected = frames(pipe)
    pipe.transformer.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    )
    assert torch.equal(frames(pipe), expected)


@pytest.mark.parametrize("vae", [tiny_vae(), patch_vae()])
def test_model_offload_hooks_fire_for_every_component_and_are_freed_at_the_end(vae):
    """`enable_model_cpu_offload` needs an accelerator; it rests on these hooks, which also run on a CPU."""

    class Recorded(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            used.append(names[module])
            return args, kwargs

    class Freed(SCAIL2Pipeline):
        def maybe_free_model_hooks(self):
            used.append("freed")
            super().maybe_free_model_hooks()

    pipe = Freed(**tiny_pipeline(vae=vae).components, segment_frame_length=9)
    pipe.set_progress_bar_config(disable=True)
    order = ("text_encoder", "image_encoder", "transformer", "vae")
    assert pipe.model_cpu_offload_seq.split("->") == list(order)
    names, used = {getattr(pipe, name): name for name in order}, []
    for module in names:
        add_hook_to_module(module, Recorded())
    stream = pipe.stream(**footage(9), mode="animation", prompt="a", num_inference_steps=1, guidance_scale=1.0)
    next(stream)
    stream.close()
    # Both encoders before anything else: they can be gone when the transformer comes.
    assert used == ["text_encoder", "image_encoder", "vae", "vae", "transformer", "vae", "freed"]


def test_regional_compilation_traces_whole_blocks(model):
    expected = output(model)
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    torch.testing.assert_close(output(model), expected, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()


def test_attention_backends_agree_and_the_context_leaves_no_trace(model):
    native = output(model)
    with attention_backend(AttentionBackendName._NATIVE_MATH):
        math = output(model)
    torch.testing.assert_close(math, native, atol=1e-5, rtol=1e-5)
    assert torch.equal(output(model), native)


def _ulysses_rank(rank: int, folder: Path) -> None:
    """One rank of two: a forward pass with the sequence split over ranks, beside the same without."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = tiny_transformer()
    inputs = forward_inputs(model, frames=4)
    tokens = []
    model.blocks[0].attn1.register_forward_pre_hook(lambda module, args: tokens.append(args[0].shape[1]))
    with torch.no_grad():
        single = model(**inputs).sample
        # enable_parallelism() divides by the number of accelerators, which is none here; this is what it does then.
        config = ContextParallelConfig(ulysses_degree=2)
        mesh = init_device_mesh("cpu", config.mesh_shape, mesh_dim_names=config.mesh_dim_names)
        config.setup(rank, 2, torch.device("cpu"), mesh)
        model._parallel_config = ParallelConfig(context_parallel_config=config)
        for module in model.modules():
            if isinstance(module, AttentionModuleMixin):
                module.processor._parallel_config = model._parallel_config
        apply_context_parallel(model, config, model._cp_plan)
        parallel = model(**inputs).sample.contiguous()
    sizes = {"all_tokens": torch.tensor(tokens[0]), "local_tokens": torch.tensor(tokens[1])}
    save_file({"single": single, "parallel": parallel, **sizes}, folder / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_ulysses_over_two_processes_equals_one(tmp_path):
    # Forked, since importing everything again would take each process seconds.
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_ulysses_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
        process.kill()
    assert [process.exitcode for process in ranks] == [0, 0]
    for rank in range(2):
        result = load_file(tmp_path / f"{rank}.safetensors")
        torch.testing.assert_close(result["parallel"], result["single"], atol=1e-6, rtol=0)
        assert result["local_tokens"] * 2 == result["all_tokens"]


def count_block_calls(model) -> list[int]:
    """Calls of the last block's own computation: a cache skips it by never calling its attention."""
    calls = []
    model.blocks[-1].ffn.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize(
    ("config", "skips"),
    [
        (FirstBlockCacheConfig(threshold=0.0), False),
        (FirstBlockCacheConfig(threshold=1e9), True),
        (
            MagCacheConfig(
                threshold=10.0, max_skip_steps=3, retention_ratio=0.2, num_inference_steps=6, mag_ratios=[1.0] * 6
            ),
            True,
        ),
        (taylorseer_config(cache_interval=3, disable_cache_before_step=1), None),
    ],
)
def test_step_caches(config, skips):
    pipe = bare_pipeline()

    def frames():
        generator = torch.Generator().manual_seed(0)
        arguments = {"mode": "animation", "num_inference_steps": 6, "generator": generator, "output_type": "pt"}
        return pipe(**footage(9), **arguments).frames

    expected = frames()
    pipe.transformer.enable_cache(config)
    calls = count_block_calls(pipe.transformer)
    cached = frames()
    if skips is not None:
        assert (len(calls) < 6) == skips
        assert torch.equal(cached, expected) == (not skips)
    else:
        assert not torch.equal(cached, expected)
    assert torch.isfinite(cached).all()
    assert torch.equal(frames(), cached), "a second run starts from nothing"
    pipe.transformer.disable_cache()
    assert torch.equal(frames(), expected)


def test_caches_keep_the_two_passes_of_guidance_apart():
    pipe = tiny_pipeline()

    def frames(scale: float):
        generator = torch.Generator().manual_seed(0)
        arguments = {"prompt": "a puppet", "num_inference_steps": 4, "generator": generator, "output_type": "pt"}
        return pipe(**footage(5), mode="animation", guidance_scale=scale, **arguments).frames

    plain = frames(6.0)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    assert torch.equal(frames(6.0), plain)
    pipe.transformer.disable_cache()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    assert not torch.equal(frames(6.0), frames(1.0))


def test_skip_layer_guidance_by_blocks():
    guider = SkipLayerGuidance(
        guidance_scale=3.0,
        skip_layer_guidance_scale=2.0,
        skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=1.0,
        skip_layer_config=LayerSkipConfig(indices=[1], fqn="blocks", skip_attention=False, skip_ff=True),
    )
    pipe = tiny_pipeline(guider=guider)
    passes = []
    pipe.transformer.register_forward_pre_hook(lambda *_: passes.append(1))
    arguments = {"mode": "animation", "prompt": "a puppet", "num_inference_steps": 2, "output_type": "pt"}
    guided = pipe(**footage(5), **arguments, generator=torch.Generator().manual_seed(0)).frames
    assert len(passes) == 5, "two passes in the first step, a third without the skipped layer from the second on"
    pipe.register_modules(guider=None)
    plain = pipe(**footage(5), **arguments, guidance_scale=3.0, generator=torch.Generator().manual_seed(0)).frames
    assert not torch.equal(guided, plain)


def test_perturbed_attention_guidance():
    """Skips inside attention, which needs our processor in diffusers' table."""

    def perturbing(scale: float) -> PerturbedAttentionGuidance:
        return PerturbedAttentionGuidance(
            guidance_scale=scale,
            perturbed_guidance_scale=2.0,
            perturbed_guidance_start=0.0,
            perturbed_guidance_stop=1.0,
            perturbed_guidance_layers=[1],
        )

    def frames(**changes) -> torch.Tensor:
        arguments = {"mode": "animation", "prompt": "a puppet", "num_inference_steps": 3, "output_type": "pt"}
        return pipe(**footage(5), **arguments, **changes, generator=torch.Generator().manual_seed(0)).frames

    pipe = tiny_pipeline()
    plain = frames(guidance_scale=3.0)
    pipe.register_modules(guider=perturbing(3.0))
    perturbed = frames()
    assert torch.isfinite(perturbed).all()
    assert not torch.equal(perturbed, plain)
    pipe.register_modules(guider=perturbing(1.0))
    with pytest.raises(InputError, match="skips nothing without classifier-free guidance"):
        frames()
    pipe.register_modules(guider=None)
    assert torch.equal(frames(guidance_scale=3.0), plain), "no hook stays behind"


def lora_state(model, rank: int = 2, seed: int = 3) -> dict[str, torch.Tensor]:
    """Low-rank pairs for all attention projections of the first block, in published names."""
    rng = torch.Generator().manual_seed(seed)
    dim = model.config.num_attention_heads * model.config.attention_head_dim
    state = {}
    for layer in ("self_attn.q", "self_attn.v", "cross_attn.k_img", "cross_attn.o"):
        name = f"diffusion_model.blocks.0.{layer}"
        state[f"{name}.lora_down.weight"] = torch.randn(rank, dim, generator=rng)
        state[f"{name}.lora_up.weight"] = torch.randn(dim, rank, generator=rng) * 0.1
    return state


def test_lora_load_scale_fuse_and_unload(tmp_path):
    pipe = tiny_pipeline(vae=tiny_vae())
    model, state = pipe.transformer, lora_state(pipe.transformer)
    path = tmp_path / "lora.safetensors"
    save_file(state, path)
    plain = output(model)
    merged = tiny_transformer()
    with torch.no_grad():
        weight = dict(merged.named_parameters())
        for layer, ours in (
            ("self_attn.q", "attn1.to_q"),
            ("self_attn.v", "attn1.to_v"),
            ("cross_attn.k_img", "attn2.add_k_proj"),
            ("cross_attn.o", "attn2.to_out.0"),
        ):
            name = f"diffusion_model.blocks.0.{layer}"
            weight[f"blocks.0.{ours}.weight"] += state[f"{name}.lora_up.weight"] @ state[f"{name}.lora_down.weight"]
    expected = output(merged)
    assert (expected - plain).abs().max() > 1e-3
    pipe.load_lora_weights(path, adapter_name="dpo")
    close = {"atol": 2e-5, "rtol": 1e-4}
    torch.testing.assert_close(output(model), expected, **close)
    assert pipe.get_active_adapters() == ["dpo"]
    torch.testing.assert_close(output(model, attention_kwargs={"scale": 0.0}), plain, **close)
    pipe.set_adapters("dpo", 0.0)
    torch.testing.assert_close(output(model), plain, **close)
    pipe.set_adapters("dpo", 1.0)
    pipe.load_lora_weights(lora_state(model, seed=4), adapter_name="second")
    pipe.set_adapters(["dpo", "second"], [1.0, 0.5])
    assert not torch.allclose(output(model), expected, atol=1e-3)
    pipe.set_adapters("dpo")
    pipe.fuse_lora(adapter_names=["dpo"])
    torch.testing.assert_close(output(model), expected, **close)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(output(model), plain, **close)


def test_single_file(model, tmp_path):
    path = tmp_path / "official.safetensors"
    save_official(model, path)
    loaded = SCAIL2Transformer3DModel.from_single_file(
        str(path), original_config={"num_heads": model.config.num_attention_heads, "text_len": 512}
    )
    assert_same_model(loaded, model)


def test_gradient_checkpointing_gives_the_same_gradients(model):
    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(**forward_inputs(model)).sample.square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.train()
    expected = gradients()
    assert set(expected) == {name for name, _ in model.named_parameters()}, "every parameter takes part"
    model.enable_gradient_checkpointing()
    recomputed = []
    model.blocks[1].attn1.register_forward_hook(lambda *_: recomputed.append(1))
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5)
    assert len(recomputed) == 2, "once forward, once more on the way back"


def test_adapters_can_be_trained_and_switched_off(model):
    from peft import LoraConfig

    plain = output(model)
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False))
    assert not torch.allclose(output(model), plain)
    model(**forward_inputs(model)).sample.mean().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)
    model.disable_adapters()
    assert torch.equal(output(model), plain), "the reference model of preference training is the model without them"


def test_pipeline_save_and_load(tmp_path):
    pipe = tiny_pipeline(guider=ClassifierFreeGuidance(guidance_scale=2.0), default_preset="balanced")
    pipe.save_pretrained(tmp_path)
    loaded = SCAIL2Pipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.segment_frame_length == 9
    assert loaded.config.default_preset == "balanced"
    assert loaded.guider.guidance_scale == 2.0
    assert isinstance(loaded.transformer, SCAIL2Transformer3DModel)
    arguments = {"mode": "replacement", "prompt": "a puppet", "num_inference_steps": 2, "output_type": "pt"}
    ours, theirs = (
        p(**footage(13), **arguments, generator=torch.Generator().manual_seed(0)).frames for p in (loaded, pipe)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_pipeline_without_encoders_saves_and_loads(tmp_path):
    bare_pipeline().save_pretrained(tmp_path)
    loaded = SCAIL2Pipeline.from_pretrained(tmp_path)
    assert loaded.text_encoder is loaded.tokenizer is loaded.image_encoder is loaded.guider is None
    assert loaded.config.default_preset == "nano"
    assert (tmp_path / "vae" / "config.json").exists()


def test_components_load_one_by_one(model, tmp_path):
    model.save_pretrained(tmp_path / "transformer")
    assert_same_model(load_transformer(tmp_path / "transformer"), model)
