"""LoRA files in every program's spelling: the same addition through both doors, by value, or one true sentence."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_pipeline, tiny_transformer
from torch import Tensor

from scail2.checkpoints.lora import adapter_state_dict, apply_loras, fused_loras, unfuse_loras
from scail2.errors import InputError

RANK, ALPHA = 4, 2.0
# Published module -> ours. The first is plain, the others have underscores of their own, or none at all.
MODULES = {
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.cross_attn.k_img": "blocks.1.attn2.add_k_proj",
    "blocks.1.self_attn.o": "blocks.1.attn1.to_out.0",
    "blocks.0.ffn.2": "blocks.0.ffn.net.2",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
}


def flat(module: str) -> str:
    return module.replace(".", "_")


# name: (how an entry is written, vocabulary, names of down and up, whether an alpha is stored)
DIALECTS = {
    "lightx2v": ("diffusion_model.{}", "published", "lora_down.weight", "lora_up.weight", False),
    "lightx2v with alpha": ("diffusion_model.{}", "published", "lora_down.weight", "lora_up.weight", True),
    "bare": ("{}", "published", "lora_down.weight", "lora_up.weight", False),
    "comfy, peft names": ("diffusion_model.{}", "published", "lora_A.weight", "lora_B.weight", True),
    "checkpoint prefix": ("model.diffusion_model.{}", "published", "lora_A.weight", "lora_B.weight", False),
    "peft": ("base_model.model.{}", "published", "lora_A.weight", "lora_B.weight", False),
    "peft, named": ("base_model.model.{}", "published", "lora_A.default.weight", "lora_B.default.weight", False),
    "diffsynth": ("{}", "published", "lora_A.default.weight", "lora_B.default.weight", False),
    "kohya": ("lora_unet_{}", "flat published", "lora_down.weight", "lora_up.weight", True),
    "kohya, ours": ("lora_transformer_{}", "flat ours", "lora_down.weight", "lora_up.weight", True),
    "diffusers": ("transformer.{}", "ours", "lora_A.weight", "lora_B.weight", False),
    "diffusers, bare": ("{}", "ours", "lora_A.weight", "lora_B.weight", False),
    "diffusers, with alpha": ("transformer.{}", "ours", "lora_A.weight", "lora_B.weight", True),
    "old diffusers": ("transformer.{}", "ours", "lora.down.weight", "lora.up.weight", False),
    "videox-fun": ("lora_unet__{}", "flat published", "lora_down.weight", "lora_up.weight", True),
    "diffsynth, whole": ("pipe.dit.{}", "published", "lora_A.default.weight", "lora_B.default.weight", False),
    "sharded": ("_fsdp_wrapped_module.{}", "published", "lora_A.weight", "lora_B.weight", False),
    "compiled": ("_orig_mod.{}", "published", "lora_down.weight", "lora_up.weight", False),
}


def factors(model) -> dict[str, tuple[Tensor, Tensor]]:
    """(up, down) for every module of the table."""
    generator = torch.Generator().manual_seed(3)
    made = {}
    for module, ours in MODULES.items():
        rows, columns = model.get_parameter(f"{ours}.weight").shape
        made[module] = tuple(torch.randn(size, generator=generator) for size in ((rows, RANK), (RANK, columns)))
    return made


def written(model, dialect: str) -> dict[str, Tensor]:
    entry, vocabulary, down_name, up_name, has_alpha = DIALECTS[dialect]
    state = {}
    for module, (up, down) in factors(model).items():
        name = module if "published" in vocabulary else MODULES[module]
        name = entry.format(flat(name) if "flat" in vocabulary else name)
        state |= {f"{name}.{down_name}": down, f"{name}.{up_name}": up}
        if has_alpha:
            state[f"{name}.alpha"] = torch.tensor(ALPHA)
    return state


def test_wrappers_between_the_parts_of_a_name():
    model = tiny_transformer()
    before = model.get_parameter("blocks.0.attn1.to_q.weight").clone()
    up, down = factors(model)["blocks.0.self_attn.q"]
    for between in ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module._orig_mod."):
        name = f"diffusion_model.blocks.0.{between}self_attn.q"
        lora = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up, f"{name}.alpha": torch.full((1, 1), ALPHA)}
        apply_loras(model, [(lora, 1.0)])
        expected = before + ALPHA / RANK * (up @ down)
        assert torch.allclose(model.get_parameter("blocks.0.attn1.to_q.weight"), expected, atol=1e-5)
        unfuse_loras(model)


TEXT_ENCODERS = ("lora_te_encoder_block_0_q", "lora_te1_text_model_q_proj", "text_encoder.encoder.block.0.q")


@pytest.mark.parametrize("module", TEXT_ENCODERS)
def test_what_is_for_a_text_encoder_is_passed_over_and_said(tmp_path, caplog, module):
    """Trainers write the text encoder's part into the same file; the transformer's counts as if it were alone."""
    alone, along = tiny_transformer(), tiny_transformer()
    along.load_state_dict(alone.state_dict())
    lora = written(alone, "kohya")
    text = {f"{module}.lora_down.weight": torch.ones(2, 8), f"{module}.lora_up.weight": torch.ones(8, 2)}
    save_file(lora | text, path := tmp_path / "both.safetensors")
    apply_loras(alone, [(lora, 0.5)])
    (report,) = apply_loras(along, [(path, 0.5)])
    assert (report.lora_pairs, report.text_encoder_tensors) == (len(MODULES), 2)
    for name, value in alone.state_dict().items():
        assert torch.equal(along.state_dict()[name], value), name
    assert fused_loras(along).remarks == [
        "both.safetensors: its 2 tensors for a text encoder are passed over; those for the transformer count"
    ]
    assert adapter_state_dict(tiny_transformer(), path).keys() == adapter_state_dict(tiny_transformer(), lora).keys()
    assert caplog.messages == fused_loras(along).remarks * 2
    with pytest.raises(InputError, match="is for a text encoder alone"):
        apply_loras(alone, [(text, 1.0)])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_spelling_is_the_same_addition_through_both_doors(tmp_path, dialect):
    pipe = tiny_pipeline()
    fused, adapted = tiny_transformer(), pipe.transformer
    adapted.load_state_dict(fused.state_dict())
    path = tmp_path / "lora.safetensors"
    save_file(written(fused, dialect), path)
    scale = ALPHA / RANK if DIALECTS[dialect][-1] else 1.0
    before = {name: value.clone() for name, value in fused.state_dict().items()}
    (report,) = apply_loras(fused, [(path, 0.5)])
    assert report.lora_pairs == len(MODULES)
    pipe.load_lora_weights(path, adapter_name="it")
    pipe.set_adapters(["it"], [0.5])
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    changed = {name for name, value in fused.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{ours}.weight" for ours in MODULES.values()}
    for module, (up, down) in factors(fused).items():
        name = f"{MODULES[module]}.weight"
        expected = before[name] + 0.5 * scale * (up @ down)
        assert torch.allclose(fused.get_parameter(name), expected, atol=1e-5), module
        assert torch.allclose(adapted.get_parameter(name), expected, atol=1e-5), module


@pytest.mark.parametrize("rslora", [False, True])
def test_alpha_in_the_file_that_peft_writes_beside_its_own(tmp_path, rslora):
    model = tiny_transformer()
    save_file(written(model, "peft"), tmp_path / "adapter_model.safetensors")
    words = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "use_rslora": rslora, "alpha_pattern": {"head.head": 1}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(words))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apply_loras(model, [(tmp_path / "adapter_model.safetensors", 1.0)])
    for module, (up, down) in factors(model).items():
        name = f"{MODULES[module]}.weight"
        alpha = 1 if module == "head.head" else 6
        expected = before[name] + alpha / (RANK**0.5 if rslora else RANK) * (up @ down)
        assert torch.allclose(model.get_parameter(name), expected, atol=1e-5), module


def test_low_rank_convolutions_of_the_patch_embedding():
    model = tiny_transformer()
    weight = model.patch_embedding_pose.weight.detach().clone()
    up, down = torch.randn(24, 2, 1, 1, 1), torch.randn(2, *weight.shape[1:])
    name = "lora_unet_patch_embedding_pose"
    lora = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1)}
    other = model.patch_embedding.weight.detach().clone()
    apply_loras(model, [(lora, 1.0)])
    expected = weight + 0.5 * torch.einsum("or,rithw->oithw", up[:, :, 0, 0, 0], down)
    assert torch.allclose(model.patch_embedding_pose.weight, expected, atol=1e-5)
    assert torch.equal(model.patch_embedding.weight, other)


def test_differences_keep_their_vocabulary():
    """`norm2` is another module in each: the published block has no weights under that name."""
    model = tiny_transformer()
    ours = {"blocks.0.norm2.diff": torch.ones(24), "blocks.0.attn1.norm_q.diff": torch.ones(24)}
    before = model.blocks[0].norm2.weight.detach().clone()
    apply_loras(model, [(ours, 1.0)])
    assert torch.equal(model.blocks[0].norm2.weight, before + 1)
    published = {"blocks.0.norm2.diff": torch.ones(24), "blocks.0.self_attn.norm_q.diff": torch.ones(24)}
    with pytest.raises(InputError, match=r"'blocks\.0\.norm2\.diff' belongs to 'blocks\.0\.norm2'"):
        apply_loras(model, [(published, 1.0)])


def lycoris(kind: str) -> tuple[dict[str, Tensor], Tensor]:
    """A file for one matrix of 24x24, and what it adds."""
    generator = torch.Generator().manual_seed(5)
    draw = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    if kind == "loha":
        parts = {"w1_a": draw(24, 2), "w1_b": draw(2, 24), "w2_a": draw(24, 2), "w2_b": draw(2, 24)}
        added = (parts["w1_a"] @ parts["w1_b"]) * (parts["w2_a"] @ parts["w2_b"])
        parts = {f"hada_{name}": value for name, value in parts.items()}
    elif kind == "lokr":
        parts = {"lokr_w1": draw(4, 4), "lokr_w2_a": draw(6, 2), "lokr_w2_b": draw(2, 6)}
        added = torch.kron(parts["lokr_w1"], parts["lokr_w2_a"] @ parts["lokr_w2_b"])
    else:
        parts = {"lokr_w1": draw(4, 4), "lokr_w2": draw(6, 6)}
        return {f"lycoris_blocks_0_self_attn_q.{name}": each for name, each in parts.items()} | {
            "lycoris_blocks_0_self_attn_q.alpha": torch.tensor(1e9)  # has no meaning without a rank
        }, torch.kron(*parts.values())
    parts["alpha"] = torch.tensor(1.0)
    return {f"lycoris_blocks_0_self_attn_q.{name}": each for name, each in parts.items()}, added * 0.5


@pytest.mark.parametrize("kind", ["loha", "lokr", "lokr, whole"])
def test_loha_and_lokr(kind):
    model = tiny_transformer()
    lora, added = lycoris(kind)
    before = model.blocks[0].attn1.to_q.weight.detach().clone()
    apply_loras(model, [(lora, 2.0)])
    assert torch.allclose(model.blocks[0].attn1.to_q.weight, before + 2 * added, atol=1e-4)
    if kind == "lokr, whole":
        with pytest.raises(InputError, match=r"1 LoKr products of a high rank.*fuse it"):
            adapter_state_dict(model, lora)
        return
    state = adapter_state_dict(model, lora)
    name = "blocks.0.attn1.to_q.lora_{}.weight"
    assert torch.allclose(state[name.format("B")] @ state[name.format("A")], added, atol=1e-4)


def test_loha_through_the_pipeline_equals_fusing():
    pipe, lora = tiny_pipeline(), lycoris("loha")[0]
    layer = pipe.transformer.blocks[0].attn1.to_q
    inputs = torch.randn(3, 24, generator=torch.Generator().manual_seed(1))
    plain = layer(inputs)
    pipe.load_lora_weights(lora)
    adapted = pipe.transformer.blocks[0].attn1.to_q(inputs)
    assert torch.allclose(adapted - plain, inputs @ lycoris("loha")[1].T, atol=1e-4)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"dora_scale": torch.ones(24, 1)}, "is a DoRA: it rescales the weights"),
        ({"lora_magnitude_vector.weight": torch.ones(24)}, "is a DoRA: it rescales the weights"),
        ({"lora_mid.weight": torch.ones(2, 2)}, r"1 tensors have no meaning here: blocks\.0\.self_attn\.q\.lora_mid"),
        ({"hada_w1_a": torch.ones(24, 2)}, "1 tensors have no meaning"),
        ({"hada_w2_b": torch.ones(2, 24)}, "'blocks.0.self_attn.q.hada_w2_b' has no 'hada_w1_a' beside it"),
        ({"alpha": torch.ones(3)}, r"alpha' is \(3,\), not one number"),
        ({"lora_A.weight": torch.ones(2, 24)}, "are both for"),
    ],
)
def test_what_cannot_be_read_is_named(extra, sentence):
    model = tiny_transformer()
    lora = {"lora_down.weight": torch.ones(2, 24), "lora_up.weight": torch.ones(24, 2)} | extra
    lora = {f"blocks.0.self_attn.q.{name}": value for name, value in lora.items()}
    for door in (lambda: apply_loras(model, [(lora, 1.0)]), lambda: adapter_state_dict(model, lora)):
        with pytest.raises(InputError, match=sentence):
            door()


def test_half_a_pair_is_named():
    model = tiny_transformer()
    for part, other in (("lora_up", "lora_down"), ("lora_A", "lora_B"), ("lora_B", "lora_A")):
        size = (24, 2) if part in ("lora_up", "lora_B") else (2, 24)
        lora = {f"blocks.0.self_attn.q.{part}.weight": torch.ones(size)}
        with pytest.raises(InputError, match=rf"{part}\.weight' has no 'blocks.*{other}\.weight' beside it"):
            apply_loras(model, [(lora, 1.0)])


def test_one_module_in_two_spellings_is_refused():
    model = tiny_transformer()
    lora = written(model, "kohya") | written(model, "lightx2v")
    with pytest.raises(InputError, match="are both for"):
        apply_loras(model, [(lora, 1.0)])


def test_an_alpha_of_nothing_is_named():
    model = tiny_transformer()
    lora = written(model, "kohya") | {"lora_unet_blocks_0_ffn_0.alpha": torch.tensor(1.0)}
    with pytest.raises(InputError, match=r"1 tensors have no meaning here: lora_unet_blocks_0_ffn_0\.alpha"):
        adapter_state_dict(model, lora)
