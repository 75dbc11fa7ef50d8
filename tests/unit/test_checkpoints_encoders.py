"""Public VAE, umT5 and CLIP files: small random models of the real classes, written in published names and read back.

The encoders are also run: a forward pass written here from the published layout must agree with the loaded class, so
that a swapped projection cannot pass.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from checkpoint_files import published_clip, published_umt5, published_vae, randomised
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from scail2.checkpoints.encoders import load_image_encoder, load_text_encoder, load_vae, vae_names
from scail2.errors import InputError

# ---- VAE ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    return randomised(AutoencoderKLWan(base_dim=4, z_dim=16), 1)


def test_the_published_vae_file_becomes_the_diffusers_class(vae, tmp_path):
    published = published_vae(vae)
    # diffusers' own converter is an independent statement of the published names.
    assert {name: id(value) for name, value in convert_wan_vae_to_diffusers(dict(published)).items()} == {
        vae_names(name)[0]: id(value) for name, value in published.items()
    }
    torch.save(published, tmp_path / "Wan2.1_VAE.pth")
    loaded = load_vae(tmp_path / "Wan2.1_VAE.pth")
    assert loaded.config.latents_mean == vae.config.latents_mean
    video = torch.rand(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        assert torch.equal(loaded.encode(video).latent_dist.mode(), vae.encode(video).latent_dist.mode())


def test_vae_in_bfloat16_and_from_a_diffusers_folder(vae, tmp_path):
    save_file(published_vae(vae), tmp_path / "wan_2.1_vae.safetensors")
    assert load_vae(tmp_path / "wan_2.1_vae.safetensors", torch.bfloat16).dtype == torch.bfloat16
    vae.save_pretrained(tmp_path / "vae")
    assert torch.equal(load_vae(tmp_path / "vae").quant_conv.weight, vae.quant_conv.weight)


def test_other_and_damaged_autoencoders_are_refused(vae, tmp_path):
    published = published_vae(vae)
    lost = published.pop("decoder.upsamples.5.residual.2.weight")
    published["decoder.upsamples.5.residual.6.weight"] = lost[:1]
    save_file(published, tmp_path / "vae.safetensors")
    with pytest.raises(InputError, match=r"1 missing: decoder.up_blocks.1.resnets.1.conv1.weight; 1 misshapen"):
        load_vae(tmp_path / "vae.safetensors")
    save_file({"conv.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"is not the Wan 2\.1 autoencoder"):
        load_vae(tmp_path / "other.safetensors")


# ---- umT5 ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_encoder() -> UMT5EncoderModel:
    sizes = {"vocab_size": 40, "d_model": 24, "d_kv": 5, "d_ff": 56, "num_layers": 2, "num_heads": 3}
    return randomised(UMT5EncoderModel(UMT5Config(**sizes, feed_forward_proj="gated-gelu")), 3)


def _umt5_forward(published: dict[str, torch.Tensor], ids: torch.Tensor, heads: int) -> torch.Tensor:
    """umT5's encoder in published names: RMS norms, unscaled attention with a position bias per block, gated GELU."""

    def norm(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * published[name]

    def split(x):
        return x.unflatten(-1, (heads, -1)).transpose(0, 1)

    positions = torch.arange(len(ids))
    distance = positions[None, :] - positions[:, None]
    # Exact buckets below a quarter of all, logarithmic up to a distance of 128; the other half is for later tokens.
    buckets, exact = 32 // 2, 32 // 4
    steps = torch.log(distance.abs().clamp(min=1) / exact) / math.log(128 / exact) * (buckets - exact)
    far = (exact + steps.long()).clamp(max=buckets - 1)
    bucket = (distance > 0) * buckets + torch.where(distance.abs() < exact, distance.abs(), far)
    x = published["token_embedding.weight"][ids]
    for block in ("blocks.0", "blocks.1"):
        y = norm(x, f"{block}.norm1.weight")
        query, key, value = (split(y @ published[f"{block}.attn.{part}.weight"].T) for part in "qkv")
        bias = published[f"{block}.pos_embedding.embedding.weight"][bucket].permute(2, 0, 1)
        weights = (query @ key.mT + bias).softmax(-1)
        x = x + (weights @ value).transpose(0, 1).flatten(1) @ published[f"{block}.attn.o.weight"].T
        y = norm(x, f"{block}.norm2.weight")
        gate = F.gelu(y @ published[f"{block}.ffn.gate.0.weight"].T, approximate="tanh")
        y = gate * (y @ published[f"{block}.ffn.fc1.weight"].T)
        x = x + y @ published[f"{block}.ffn.fc2.weight"].T
    return norm(x, "norm.weight")


def test_the_published_umt5_file_becomes_the_transformers_class(text_encoder, tmp_path):
    published = published_umt5(text_encoder)
    torch.save(published, tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    loaded = load_text_encoder(tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    ids = torch.tensor([5, 9, 0, 31, 7, 7, 38, 2, 11, 20, 33, 1])
    with torch.no_grad():
        output = loaded(ids[None]).last_hidden_state[0]
    assert torch.allclose(output, _umt5_forward(published, ids, 3), atol=1e-5)
    assert loaded.encoder.embed_tokens.weight.data_ptr() == loaded.shared.weight.data_ptr()


def test_comfy_umt5_in_scaled_fp8_with_its_tokenizer_inside(text_encoder, tmp_path):
    state = {name: value for name, value in text_encoder.state_dict().items() if "embed_tokens" not in name}
    stored = {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn), "spiece_model": torch.arange(9, dtype=torch.uint8)}
    for name, value in state.items():
        if name.endswith(("SelfAttention.q.weight", "wo.weight")):
            scale = value.abs().max() / 448
            stored[name] = (value / scale).to(torch.float8_e4m3fn)
            stored[name.replace(".weight", ".scale_weight")] = scale
        else:
            stored[name] = value.to(torch.float16)
    save_file(stored, tmp_path / "umt5_xxl_fp8_e4m3fn_scaled.safetensors")
    loaded = load_text_encoder(tmp_path / "umt5_xxl_fp8_e4m3fn_scaled.safetensors", torch.float32)
    for name, value in state.items():
        # float8 e4m3 keeps three bits of mantissa: half a step is 1/16 of the value.
        assert torch.allclose(loaded.state_dict()[name], value, rtol=1 / 16, atol=2e-3), name


# ---- CLIP ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image_encoder() -> CLIPVisionModel:
    config = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        hidden_act="gelu",
    )
    return randomised(CLIPVisionModel(config), 4)


def _clip_penultimate(published: dict[str, torch.Tensor], pixels: torch.Tensor, heads: int, layers: int):
    """The published vision tower up to, not including, its last block: exact GELU, LayerNorm epsilon 1e-5."""

    def linear(x, name):
        return F.linear(x, published[f"visual.{name}.weight"], published[f"visual.{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], published[f"visual.{name}.weight"], published[f"visual.{name}.bias"], 1e-5)

    patches = F.conv2d(pixels, published["visual.patch_embedding.weight"], stride=14).flatten(2).mT
    x = torch.cat([published["visual.cls_embedding"].expand(len(pixels), -1, -1), patches], dim=1)
    x = norm(x + published["visual.pos_embedding"], "pre_norm")
    for layer in range(layers - 1):
        block = f"transformer.{layer}"
        fused = linear(norm(x, f"{block}.norm1"), f"{block}.attn.to_qkv").unflatten(-1, (3, heads, -1))
        query, key, value = (part.transpose(1, 2) for part in fused.unbind(2))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + linear(attended, f"{block}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.0")), f"{block}.mlp.2")
    return x


def test_the_published_clip_file_becomes_the_transformers_class(image_encoder, tmp_path):
    published = published_clip(image_encoder)
    path = tmp_path / "models_clip_open-clip-xlm-roberta-large-vit-huge-14-onlyvisual.pth"
    torch.save(published, path)
    loaded = load_image_encoder(path, num_heads=2)
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        features = loaded(pixels, output_hidden_states=True).hidden_states[-2]
        expected = _clip_penultimate(published, pixels, heads=2, layers=3)
    assert torch.allclose(features, expected, atol=1e-5)


def test_comfy_clip_vision_and_unknown_head_counts(image_encoder, tmp_path):
    stored = {f"vision_model.{name}": value.contiguous() for name, value in image_encoder.state_dict().items()}
    stored["visual_projection.weight"] = torch.ones(8, 24)
    save_file(stored, tmp_path / "clip_vision_h.safetensors")
    loaded = load_image_encoder(tmp_path / "clip_vision_h.safetensors", num_heads=2)
    for name, value in image_encoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    with pytest.raises(InputError, match="give num_heads"):
        load_image_encoder(tmp_path / "clip_vision_h.safetensors")
