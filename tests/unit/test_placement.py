"""Placements on the real classes: what each of them changes in memory, and that it changes nothing else."""

import copy
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from checkpoint_files import WORDS, official_state, save_fp8, save_gguf
from diffusers import AutoencoderKLWan
from diffusers.hooks.group_offloading import ModuleGroup
from diffusers.quantizers.gguf.utils import GGML_QUANT_SIZES, dequantize_functions
from safetensors.torch import save_file
from tiny import bare_pipeline, bare_transformer, footage, forward_inputs, tiny_pipeline, tiny_transformer

from scail2 import load_pipeline, load_transformer
from scail2.checkpoints.lora import apply_loras, unfuse_loras
from scail2.errors import InputError
from scail2.loading.as_stored import load_transformer_as_stored
from scail2.loading.gguf_linear import unpack
from scail2.loading.placing import is_block_linear, offload_transformer, place_pipeline
from scail2.models import streamed_autoencoder
from scail2.models.chunked import take_tokens_in_chunks
from scail2.models.streamed_autoencoder import stream_autoencoder
from scail2.models.tiles import decoder_margins
from scail2.request.placement import Placement, PlacementKind, WeightStorage

CPU = torch.device("cpu")
RESIDENT = Placement(kind=PlacementKind.RESIDENT)


def frames(pipe, **options):
    generator = torch.Generator().manual_seed(0)
    settings = {"mode": "animation", "num_inference_steps": 2, "guidance_scale": 1.0} | options
    return pipe(**footage(13), **settings, generator=generator, output_type="pt").frames


@pytest.mark.parametrize("kind", [PlacementKind.BLOCK_OFFLOAD, PlacementKind.LAYER_OFFLOAD])
def test_offloaded_weights_give_the_same_frames_and_visit_one_group_at_a_time(kind, monkeypatch):
    present: set[int] = set()
    most = []
    for name, change in (("onload_", present.add), ("offload_", present.discard)):
        original = getattr(ModuleGroup, name)

        def recorded(group, original=original, change=change):
            change(id(group))
            most.append(len(present))
            return original(group)

        monkeypatch.setattr(ModuleGroup, name, recorded)
    expected = frames(bare_pipeline())
    pipe = place_pipeline(bare_pipeline(), CPU, replace(RESIDENT, kind=kind))
    most.clear()
    assert torch.equal(frames(pipe), expected)
    # The block or layer that works, beside the group of what lies outside of blocks.
    # The block or layer that works, and the one around it.
    assert max(most) <= (2 if kind is PlacementKind.BLOCK_OFFLOAD else 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_tokens_in_chunks_are_the_same_arithmetic(dtype, size):
    model = tiny_transformer().eval()
    islands = set(model._keep_in_fp32_modules)
    for name, parameter in model.named_parameters():
        if not islands & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    inputs = forward_inputs(model)
    with torch.no_grad():
        expected = model(**inputs, return_dict=False)[0]
        take_tokens_in_chunks(model.blocks, size, lambda: False)
        found = model(**inputs, return_dict=False)[0]
        again = model(**inputs, return_dict=False)[0]
    assert torch.equal(found, again)
    torch.testing.assert_close(found, expected, atol=2e-6 if dtype is torch.float32 else 2e-2, rtol=0)


def test_a_step_cache_finds_the_input_of_a_chunked_block_as_it_was():
    model = tiny_transformer().eval()
    tokens = torch.randn(1, 11, model.blocks[0].norm1.normalized_shape[0])
    context, modulation = torch.randn(1, 20, tokens.shape[2]), torch.randn(1, 6, tokens.shape[2])
    factors = (torch.ones(1, 11, 1, 12), torch.zeros(1, 11, 1, 12))
    results = []
    for keeps in (True, False):
        given = tokens.clone()
        take_tokens_in_chunks(model.blocks, 4, lambda keeps=keeps: keeps)
        with torch.no_grad():
            results.append(model.blocks[0](given, context, modulation, factors))
        assert torch.equal(given, tokens) is keeps
    assert torch.equal(*results)


def weights_of(pipe):
    return {name: each for name, each in pipe.transformer.named_modules() if is_block_linear(each, name)}


@pytest.mark.parametrize(
    ("storage", "bytes_a_weight", "near"),
    [(WeightStorage.FP8, 1.0, 0.1), (WeightStorage.INT8, 1.0, 0.05), (WeightStorage.NF4, 0.5, 0.2)],
)
def test_stored_small_weights_take_so_many_bytes_and_move_the_frames_so_far(storage, bytes_a_weight, near):
    if storage is WeightStorage.NF4:
        pytest.importorskip("bitsandbytes")
    changes = {"num_attention_heads": 4, "attention_head_dim": 32, "ffn_dim": 256}
    exact = bare_pipeline(transformer=bare_transformer(**changes))
    expected = frames(exact)
    pipe = place_pipeline(
        bare_pipeline(transformer=bare_transformer(**changes)), CPU, replace(RESIDENT, storage=storage)
    )
    found = frames(pipe)
    kept = weights_of(pipe)
    assert kept.keys() == weights_of(exact).keys()
    for name, layer in kept.items():
        full = weights_of(exact)[name].weight
        assert _bytes(layer.weight) <= bytes_a_weight * full.numel() * 1.1 + 4 * full.shape[0], name
    untouched = dict(exact.transformer.named_parameters())
    for name, parameter in pipe.transformer.named_parameters():
        if "norm" in name or "scale_shift_table" in name or not name.startswith("blocks."):
            assert torch.equal(parameter, untouched[name]), name
    assert 0 < (found - expected).abs().mean() < near


def _bytes(tensor):
    inner = [getattr(tensor, name) for name in getattr(tensor, "tensor_data_names", ())]
    return sum(each.nbytes for each in inner) if inner else tensor.nbytes


def test_an_autoencoder_in_bfloat16_is_near_the_exact_one():
    exact = frames(tiny_pipeline(), prompt="a puppet")
    pipe = place_pipeline(tiny_pipeline(), CPU, replace(RESIDENT, vae_bf16=True))
    assert pipe.vae.dtype == torch.bfloat16
    assert 0 < (frames(pipe, prompt="a puppet") - exact).abs().mean() < 0.02


@pytest.fixture(scope="module")
def wan():
    """The published autoencoder's layers at a small width, a clip and its latents, other latents and their frames."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=4).eval().requires_grad_(False)
    clip = torch.rand(1, 3, 5, 32, 256) * 2 - 1
    encoded = vae.encode(clip).latent_dist.parameters
    hidden = torch.randn(1, 16, 2, 4, 32)
    return vae, clip, encoded, hidden, vae.decode(hidden).sample


@pytest.mark.parametrize("tile", [None, 64])
def test_an_autoencoder_streamed_and_in_tiles_gives_the_values_of_the_whole(wan, tile):
    vae, clip, encoded, hidden, decoded = wan
    streamed = copy.deepcopy(vae)
    assert stream_autoencoder(streamed, tile)
    found = streamed.encode(clip).latent_dist.parameters, streamed.decode(hidden).sample
    if tile is None:
        assert torch.equal(found[0], encoded)
        assert torch.equal(found[1], decoded)
    else:  # sums in another order
        torch.testing.assert_close(found[0], encoded, atol=2e-6, rtol=0)
        torch.testing.assert_close(found[1], decoded, atol=2e-5, rtol=0)
    single = streamed.decode(hidden[:, :, :1]).sample
    torch.testing.assert_close(single, decoded[:, :, :1], atol=2e-5, rtol=0)


def test_the_margins_of_tiles_are_needed(wan, monkeypatch):
    vae, _, _, hidden, decoded = wan
    streamed = copy.deepcopy(vae)
    stream_autoencoder(streamed, 64)
    margins = decoder_margins(4, 3)
    assert margins == [7, 12, 10, 7]
    monkeypatch.setattr(streamed_autoencoder, "decoder_margins", lambda *_: [*margins[:-1], 6])
    assert (streamed.decode(hidden).sample - decoded).abs().max() > 1e-3
    monkeypatch.undo()
    # What diffusers' own tiles, which are blended and attend to themselves only, would have been off.
    vae = copy.deepcopy(vae)
    vae.enable_tiling(64, 64, 48, 48)
    assert (vae.decode(hidden).sample - decoded).abs().max() > 1e-2


@pytest.fixture(scope="module")
def published():
    return official_state()


@pytest.mark.parametrize("style", ["scale_weight", "rows"])
def test_scaled_float8_stays_float8_and_gives_the_same_bits(published, style, tmp_path):
    save_fp8(published, tmp_path / "fp8.safetensors", style=style)
    full = load_transformer(tmp_path / "fp8.safetensors", WORDS)
    kept = load_transformer_as_stored(tmp_path / "fp8.safetensors", WORDS)
    layers = {name: each for name, each in kept.named_modules() if is_block_linear(each, name)}
    assert {each.weight.dtype for each in layers.values()} == {torch.float8_e4m3fn}
    assert kept.dtype == full.dtype == torch.bfloat16
    inputs = forward_inputs(full)
    with torch.no_grad():
        assert torch.equal(kept(**inputs, return_dict=False)[0], full(**inputs, return_dict=False)[0])
    for name, layer in layers.items():
        assert 2 * layer.weight.nbytes == full.get_submodule(name).weight.nbytes


@pytest.mark.parametrize("block_type", ["Q8_0", "Q4_0"])
def test_gguf_blocks_stay_blocks(published, block_type, tmp_path):
    save_gguf(published, tmp_path / "model.gguf", block_type)
    full = load_transformer(tmp_path / "model.gguf", WORDS)
    kept = load_transformer_as_stored(tmp_path / "model.gguf", WORDS)
    layers = [each for name, each in kept.named_modules() if is_block_linear(each, name)]
    assert layers
    assert {each.weight.dtype for each in layers} == {torch.uint8}
    inputs = forward_inputs(full)
    with torch.no_grad():
        assert torch.equal(kept(**inputs, return_dict=False)[0], full(**inputs, return_dict=False)[0])


@pytest.mark.parametrize("block_type", sorted(dequantize_functions, key=int))
def test_blocks_are_unpacked_to_the_numbers_of_the_whole_file(block_type):
    size = GGML_QUANT_SIZES[block_type][1]
    stored = np.random.default_rng(0).integers(0, 256, (3, 4 * size), np.uint8)
    found = unpack(torch.from_numpy(stored), block_type).numpy()
    np.testing.assert_array_equal(found, gguf.quants.dequantize(stored, block_type))


def test_files_that_are_not_quantised_load_as_ever_and_loras_need_whole_numbers(published, tmp_path):
    save_file(published, tmp_path / "scail2.safetensors")
    full, kept = (
        load(tmp_path / "scail2.safetensors", WORDS) for load in (load_transformer, load_transformer_as_stored)
    )
    assert all(torch.equal(one, other) for one, other in zip(full.parameters(), kept.parameters(), strict=True))
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="LoRAs are fused into whole numbers, not into weights as stored"):
        load_pipeline(
            tmp_path, placement=replace(RESIDENT, storage=WeightStorage.STORED), loras=[tmp_path / "a.safetensors"]
        )


def test_loras_are_fused_before_weights_are_quantised(tmp_path):
    folder, lora = tmp_path / "model", tmp_path / "a.safetensors"
    bare_pipeline(transformer=bare_transformer(num_attention_heads=4, attention_head_dim=32)).save_pretrained(folder)
    exact = load_pipeline(folder)
    weight = exact.transformer.blocks[0].attn1.to_q.weight
    torch.manual_seed(0)
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    name = "diffusion_model.blocks.0.self_attn.q.lora_{}.weight"
    save_file({name.format("down"): down, name.format("up"): up}, lora)
    wanted = weight.detach() + up @ down
    pipe = load_pipeline(folder, device="cpu", placement=replace(RESIDENT, storage=WeightStorage.INT8), loras=[lora])
    kept = pipe.transformer.blocks[0].attn1.to_q.weight.dequantize()
    # Half a step of each row's scale: what rounding the sum is off by, and far less than the LoRA itself.
    step = wanted.abs().amax(1, keepdim=True) / 127
    assert ((kept - wanted).abs() <= 0.51 * step + 1e-6).all()
    assert (up @ down).abs().max() > 10 * step.max()


def test_loras_are_fused_into_offloaded_weights_for_good(tmp_path):
    model = tiny_transformer()
    weight = model.blocks[0].attn1.to_q.weight
    delta = {"down": 0.1 * torch.randn(2, weight.shape[1]), "up": 0.1 * torch.randn(weight.shape[0], 2)}
    name = "diffusion_model.blocks.0.self_attn.q.lora_{}.weight"
    save_file({name.format(part): value for part, value in delta.items()}, tmp_path / "a.safetensors")
    before = weight.detach().clone()
    offload_transformer(model, CPU, replace(RESIDENT, kind=PlacementKind.BLOCK_OFFLOAD))
    group = model.blocks[0]._diffusers_hook.get_hook("group_offloading").group
    # What a CUDA stream's copies are fetched from.
    group.cpu_param_dict = {each: each.data.clone() for each in model.blocks[0].parameters()}
    apply_loras(model, [(tmp_path / "a.safetensors", 1.0)])
    expected = before + delta["up"] @ delta["down"]
    torch.testing.assert_close(weight, expected)
    assert torch.equal(group.cpu_param_dict[weight], weight)
    unfuse_loras(model)
    assert torch.equal(group.cpu_param_dict[weight], before)
    assert torch.equal(weight, before)
