"""The transformer in every public dialect: read exactly, refused with a reason, written back unchanged."""

import json
import re
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from checkpoint_files import WORDS, is_block_matrix, official_state, save_fp8, save_fused, save_gguf, save_training
from diffusers import GGUFQuantizationConfig
from safetensors.torch import load_file, save_file
from tiny import bare_transformer

import scail2
from scail2.checkpoints.official_names import (
    config_from_official,
    config_to_official,
    infer_config,
    to_diffusers_name,
    to_official_name,
)
from scail2.checkpoints.tensor_files import open_tensor_file, write_safetensors
from scail2.checkpoints.transformer_config import CONFIG_KEY
from scail2.checkpoints.transformer_files import convert_transformer, save_official
from scail2.errors import InputError
from scail2.files.staging import atomic_file
from scail2.loading.inventory import describe
from scail2.models.transformer import SCAIL2Transformer3DModel

GOLDENS = Path(__file__).parent.parent / "goldens"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return official_state()


def loaded_state(path, dtype=torch.float32, config=WORDS) -> dict[str, torch.Tensor]:
    """What `load_transformer` made of a file, in published names."""
    model = scail2.load_transformer(path, config, dtype)
    return {to_official_name(name): value for name, value in model.state_dict().items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


# ---- names --------------------------------------------------------------------------------------------------------


def test_the_1307_names_and_shapes_of_the_14b():
    golden = json.loads((GOLDENS / "keys_14b.json").read_text())
    with torch.device("meta"):
        model = SCAIL2Transformer3DModel(**{**infer_config(golden["keys"]), **config_from_official(golden["config"])})
    shapes = {to_official_name(name): list(value.shape) for name, value in model.state_dict().items()}
    assert shapes == golden["keys"]
    assert len(shapes) == golden["count"] == 1307
    assert all(to_official_name(to_diffusers_name(name)) == name for name in shapes)


def test_configuration_words_both_ways():
    published = json.loads((GOLDENS / "dit_cases.json").read_text())["config"]
    ours = config_from_official(published)
    assert (ours["num_attention_heads"], ours["attention_head_dim"], ours["rope_driving_width_shift"]) == (2, 64, 120)
    model = bare_transformer()
    assert (
        dict(SCAIL2Transformer3DModel(**config_from_official(config_to_official(model.config))).config).items()
        >= {key: value for key, value in model.config.items() if not key.startswith("_")}.items()
    )
    for words, message in (
        ({"window_size": [7, 7]}, "attends to the whole sequence"),
        ({"pose_rope_shift": [1, 0, 120]}, "only the width"),
        ({"depth": 3}, "Unknown configuration word 'depth'"),
        ({"dim": 30, "num_heads": 4}, "does not divide"),
        ({"model_type": "vace"}, "not supported"),
    ):
        with pytest.raises(InputError, match=message):
            config_from_official(words)


# ---- dialects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_official_safetensors(state, tmp_path, prefix):
    save_file({prefix + name: value for name, value in state.items()}, tmp_path / "model.safetensors")
    assert_equal(loaded_state(tmp_path / "model.safetensors"), state)


def test_sharded_safetensors_with_their_published_config(state, tmp_path):
    names = sorted(state)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: state[name] for name in members}, tmp_path / shard)
    index = {"weight_map": {name: shard for shard, members in shards.items() for name in members}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps({"dim": 64, "num_heads": 4, "image_length": 5}))
    model = scail2.load_transformer(tmp_path)
    assert model.config.num_attention_heads == 4
    assert_equal({to_official_name(name): value for name, value in model.state_dict().items()}, state)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"not beside it: b\.safetensors"):
        scail2.load_transformer(tmp_path)


@pytest.mark.parametrize("save", [save_training, save_fused])
def test_training_branch(state, tmp_path, save):
    save(state, tmp_path / "fsdp2_rank_0000_checkpoint.pt")
    names = open_tensor_file(tmp_path / "fsdp2_rank_0000_checkpoint.pt").tensors
    # Two projections fewer for every three fused, one for every two, with weights and biases, in both blocks.
    assert len(names) == len(state) - 2 * (4 + 2 + (2 if save is save_training else 0))
    assert_equal(loaded_state(tmp_path / "fsdp2_rank_0000_checkpoint.pt"), state)


@pytest.mark.parametrize("style", ["scale_weight", "weight_scale", "rows"])
def test_comfy_fp8(state, tmp_path, style):
    save_fp8(state, tmp_path / "fp8.safetensors", style=style)
    found = loaded_state(tmp_path / "fp8.safetensors")
    for name, value in state.items():
        if not is_block_matrix(name, value):
            assert torch.equal(found[name], value.to(torch.bfloat16).float()), name
        else:
            # Three bits of mantissa; below the smallest normal number (2^-6 of 448 scales) steps are absolute.
            assert torch.allclose(found[name], value, rtol=2**-4, atol=float(value.abs().max()) * 2**-10 / 448), name
    assert scail2.load_transformer(tmp_path / "fp8.safetensors", WORDS).patch_embedding.weight.dtype == torch.bfloat16


def test_unscaled_fp8_is_taken_as_it_is(state, tmp_path):
    stored = {name: value.to(torch.float8_e5m2) if value.ndim == 2 else value for name, value in state.items()}
    save_file(stored, tmp_path / "cast.safetensors")
    assert_equal(loaded_state(tmp_path / "cast.safetensors"), {name: value.float() for name, value in stored.items()})


@pytest.mark.parametrize("block_type", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_gguf(state, tmp_path, block_type):
    save_gguf(state, tmp_path / "model.gguf", block_type, flatten_convolutions=block_type == "Q8_0")
    found, kind = loaded_state(tmp_path / "model.gguf"), gguf.GGMLQuantizationType[block_type]
    for name, value in state.items():
        expected = value
        if is_block_matrix(name, value):
            expected = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(value.numpy(), kind), kind))
        assert torch.equal(found[name], expected), name


@pytest.mark.parametrize("block_type", ["F32", "F16", "Q8_0"])
def test_numbers_of_a_noted_shape_are_those_of_the_stored_rows(tmp_path, block_type):
    """A convolution (8, 8, 1, 2, 4) stored in 8 or 16 rows: its last axis is no row of the file."""
    value = torch.randn(8, 8, 1, 2, 4, generator=torch.Generator().manual_seed(0)).numpy()
    kind = gguf.GGMLQuantizationType[block_type]
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "wan")
    for name, rows in (("matrix", 8), ("rows", 16)):
        writer.add_array(f"comfy.gguf.orig_shape.{name}", list(value.shape))
        writer.add_tensor(name, gguf.quants.quantize(value.reshape(rows, -1), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = open_tensor_file(tmp_path / "m.gguf")
    for name in ("matrix", "rows"):
        whole = file.read(name).float()
        assert whole.shape == value.shape
        for start, count in ((0, 512), (0, 3), (5, 4), (63, 2), (64, 64), (200, 128), (511, 1)):
            found = file.numbers(name, start, count)
            assert np.array_equal(found, whole.reshape(-1)[start : start + count].numpy()), (name, start)


@pytest.mark.parametrize("block_type", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"])
def test_gguf_super_blocks(block_type, tmp_path):
    """Blocks of 256 that gguf reads but does not write: valid random bytes, read in pieces, equal gguf's own reading."""
    kind = gguf.GGMLQuantizationType[block_type]
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = np.random.default_rng(0).integers(0, 256, (6, 2 * size), dtype=np.uint8)
    blocks[blocks == 0x7C] = 0  # no infinite scales
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "wan")
    writer.add_tensor("weight", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = open_tensor_file(tmp_path / "one.gguf")
    expected = torch.from_numpy(gguf.quants.dequantize(blocks, kind))
    assert file.tensors["weight"].shape == expected.shape == (6, 512)
    assert torch.equal(file.read("weight").nan_to_num(), expected.nan_to_num())
    assert torch.equal(file.read_rows("weight", slice(2, 5)).nan_to_num(), expected[2:5].nan_to_num())


def test_diffusers_folder_single_and_sharded(state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    model = scail2.load_transformer(tmp_path / "model.safetensors", WORDS)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "pipe" / "transformer", max_shard_size="100KB")
    assert len(list((tmp_path / "pipe" / "transformer").glob("*.safetensors"))) > 3
    for folder in ("one", "pipe", "pipe/transformer"):
        assert_equal(loaded_state(tmp_path / folder, config=None), state)
    with pytest.raises(InputError, match="give no config"):
        scail2.load_transformer(tmp_path / "one", WORDS)


# ---- types and memory ---------------------------------------------------------------------------------------------


def test_islands_stay_float32_under_bfloat16(state, tmp_path):
    save_file({name: value.to(torch.bfloat16) for name, value in state.items()}, tmp_path / "model.safetensors")
    model = scail2.load_transformer(tmp_path / "model.safetensors", WORDS)
    islands = {name for name, value in model.named_parameters() if value.dtype == torch.float32}
    kept = set(SCAIL2Transformer3DModel._keep_in_fp32_modules)
    assert islands == {name for name, _ in model.named_parameters() if kept & set(name.split("."))}
    assert "condition_embedder.time_embedder.linear_1.weight" in islands
    assert model.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    # Through diffusers' own folder loader the same parameters are islands.
    model.save_pretrained(tmp_path / "folder")
    again = SCAIL2Transformer3DModel.from_pretrained(tmp_path / "folder", torch_dtype=torch.bfloat16)
    assert islands == {name for name, value in again.named_parameters() if value.dtype == torch.float32}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the process's mappings from Linux")
def test_weights_that_need_no_cast_stay_in_the_file_and_others_leave_it(state, tmp_path):
    path = tmp_path / "only_here.safetensors"
    save_file(state, path)
    mapped = scail2.load_transformer(path, WORDS)
    assert path.name in Path("/proc/self/maps").read_text()
    with torch.no_grad():
        mapped.proj_out.weight.zero_()  # copy on write: the file keeps its values
    assert torch.equal(load_file(path)["head.head.weight"], state["head.head.weight"])
    del mapped
    cast = scail2.load_transformer(path, WORDS, torch.bfloat16)
    assert path.name not in Path("/proc/self/maps").read_text()
    assert torch.equal(cast.patch_embedding.weight, state["patch_embedding.weight"].bfloat16())


def test_large_tensors_are_copied_in_pieces(state, tmp_path, monkeypatch):
    save_training(state, tmp_path / "model.pt")
    save_fp8(state, tmp_path / "rows.safetensors", style="rows")
    whole = loaded_state(tmp_path / "rows.safetensors")
    monkeypatch.setattr("scail2.checkpoints.views.PIECE", 10_000)
    assert_equal(loaded_state(tmp_path / "rows.safetensors"), whole)
    pieces = loaded_state(tmp_path / "model.pt", torch.float16)
    islands = {name for name, value in pieces.items() if value.dtype == torch.float32}
    assert_equal(pieces, {name: value if name in islands else value.half() for name, value in state.items()})


# ---- refusals -----------------------------------------------------------------------------------------------------


def test_every_missing_unexpected_and_misshapen_name_is_listed(state, tmp_path):
    damaged = dict(state)
    for name in ("blocks.1.ffn.2.bias", "blocks.0.self_attn.norm_q.weight", "head.modulation"):
        del damaged[name]
    damaged["blocks.0.extra.weight"] = torch.zeros(1)
    damaged["time_embedding.2.bias"] = torch.zeros(7)
    save_file(damaged, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as error:
        scail2.load_transformer(tmp_path / "model.safetensors", WORDS)
    message = str(error.value)
    for part in (
        "3 missing: ",
        "blocks.1.ffn.2.bias",
        "blocks.0.self_attn.norm_q.weight",
        "head.modulation",
        "1 unexpected: blocks.0.extra.weight",
        "1 misshapen: time_embedding.2.bias (7,) instead of (64,)",
    ):
        assert part in message


@pytest.mark.parametrize("lost", ["text_embedding.0", "img_emb.proj", "blocks.1", "norm3", "time_embedding.0.weight"])
def test_a_lost_part_is_missing_and_never_a_smaller_model(state, tmp_path, lost):
    kept = {name: value for name, value in state.items() if lost not in name}
    if lost == "blocks.1":
        kept |= {name.replace("blocks.1", "blocks.2"): value for name, value in state.items() if lost in name}
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=rf"missing: .*{lost}"):
        scail2.load_transformer(tmp_path / "model.safetensors", WORDS)


def test_other_networks_are_refused(state, tmp_path):
    for absent in ("patch_embedding_pose", "patch_embedding_mask"):
        save_file({n: v for n, v in state.items() if absent not in n}, tmp_path / "wan.safetensors")
        with pytest.raises(InputError, match=f"not a SCAIL-2 transformer: it has no .*{absent}.weight"):
            scail2.load_transformer(tmp_path / "wan.safetensors", WORDS)


@pytest.mark.parametrize("style", ["tensor", "rows", "marked"])
def test_int8_with_one_scale_per_tensor_or_row(state, tmp_path, style):
    stored = {}
    for name, value in state.items():
        if not is_block_matrix(name, value):
            stored[name] = value.to(torch.bfloat16)
            continue
        scale = (value.abs().amax(1, keepdim=True) if style == "rows" else value.abs().max()) / 127
        stored[name] = (value / scale).round().to(torch.int8)
        stored[name.removesuffix("weight") + "weight_scale"] = scale
        if style == "marked":
            marker = bytearray(b'{"format": "int8_tensorwise"}')
            stored[name.removesuffix("weight") + "comfy_quant"] = torch.frombuffer(marker, dtype=torch.uint8)
    save_file(stored, tmp_path / "model.safetensors")
    assert describe(tmp_path / "model.safetensors").dialect == "comfy-int8"
    found = loaded_state(tmp_path / "model.safetensors", dtype=torch.float32)
    for name, value in state.items():
        if is_block_matrix(name, value):
            expected = stored[name].float() * stored[name.removesuffix("weight") + "weight_scale"].float()
            assert torch.equal(found[name], expected)
            assert (found[name] - value).abs().max() <= value.abs().max() / 127
    loaded = scail2.load_transformer(tmp_path / "model.safetensors", WORDS)
    assert loaded.blocks[0].ffn.net[2].weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "wrapped",
    [
        "_orig_mod.{}",
        "module.{}",
        "module._orig_mod.{}",
        "_orig_mod.model.diffusion_model.{}",
        "ema.{}",
        "ema_model.module.{}",
    ],
)
def test_names_that_training_programs_wrap(state, tmp_path, wrapped):
    save_file({wrapped.format(name): value for name, value in state.items()}, tmp_path / "model.safetensors")
    assert_equal(loaded_state(tmp_path / "model.safetensors"), state)


def test_names_that_are_wrapped_block_by_block(state, tmp_path):
    inner = {
        re.sub(r"(blocks\.\d+\.)", r"\1_checkpoint_wrapped_module._orig_mod.", name): v for name, v in state.items()
    }
    save_file(inner, tmp_path / "model.safetensors")
    assert_equal(loaded_state(tmp_path / "model.safetensors"), state)


def test_averaged_weights_go_before_those_they_are_the_average_of(state, tmp_path):
    others = {name: value + 1 for name, value in state.items()}
    save_file(
        {f"model.{name}": value for name, value in others.items()} | {f"ema.{name}": v for name, v in state.items()},
        tmp_path / "flat.safetensors",
    )
    save_file(others | {f"ema.{name}": v for name, v in state.items()}, tmp_path / "beside.safetensors")
    torch.save({"state_dict": {"model": others, "ema": {"module": state}}, "step": 7}, tmp_path / "nested.pt")
    for name in ("flat.safetensors", "beside.safetensors", "nested.pt"):
        assert_equal(loaded_state(tmp_path / name), state)


@pytest.mark.parametrize("fold", ["first two", "to a matrix", "single frame dropped"])
def test_gguf_whose_patch_embeddings_are_folded(state, tmp_path, fold):
    """Programs of four dimensions (stable-diffusion.cpp) fold them without noting the shape."""
    folded = dict(state)
    for name, value in state.items():
        if value.ndim == 5:
            shapes = {
                "first two": (value.shape[0] * value.shape[1], *value.shape[2:]),
                "to a matrix": (value.shape[0], value[0].numel()),
                "single frame dropped": (*value.shape[:2], *value.shape[3:]),
            }
            folded[name] = value.reshape(shapes[fold])
    save_gguf(folded, tmp_path / "model.gguf", "F16")
    found = loaded_state(tmp_path / "model.gguf", dtype=torch.float32)
    for name, value in state.items():
        assert found[name].shape == value.shape
        if value.ndim == 5:
            assert torch.equal(found[name], value)


@pytest.mark.parametrize("kind", ["mxfp8", "int8 blocks", "int8 rotated", "nvfp4", "marker", "no scale", "same twice"])
def test_unreadable_quantisation_is_refused(state, tmp_path, kind):
    name = "blocks.0.ffn.0"
    stored, weight = dict(state), state[f"{name}.weight"]
    if kind == "mxfp8":
        stored[f"{name}.weight"] = weight.to(torch.float8_e4m3fn)
        stored[f"{name}.weight_scale"] = torch.full((96, 2), 127, dtype=torch.uint8)
    elif kind == "int8 blocks":
        stored[f"{name}.weight"] = weight.to(torch.int8)
        stored[f"{name}.weight_scale"] = torch.ones(3, 2)
    elif kind == "int8 rotated":
        stored[f"{name}.weight"] = weight.to(torch.int8)
        stored[f"{name}.weight_scale"] = torch.tensor(0.1)
        marker = bytearray(b'{"format": "int8_tensorwise", "convrot": true}')
        stored[f"{name}.comfy_quant"] = torch.frombuffer(marker, dtype=torch.uint8)
    elif kind == "nvfp4":
        stored[f"{name}.weight"] = torch.zeros(96, 32, dtype=torch.uint8)
        stored[f"{name}.weight_scale"] = torch.ones(96, 4).to(torch.float8_e4m3fn)
    elif kind == "marker":
        stored[f"{name}.comfy_quant"] = torch.frombuffer(bytearray(b'{"format": "mxfp8"}'), dtype=torch.uint8)
    elif kind == "no scale":
        stored[f"{name}.weight"] = weight.to(torch.float8_e4m3fn)
        stored["scaled_fp8"] = torch.zeros(0).to(torch.float8_e4m3fn)
    else:
        stored["blocks.0.attn1.to_q.weight"] = weight.clone()
    save_file(stored, tmp_path / "model.safetensors")
    reasons = {"no scale": "has no scale beside it", "same twice": "are both 'blocks.0.self_attn.q.weight'"}
    reasons_else = r"fp8 and int8 with one scale.*take the bf16, fp8-scaled or GGUF file of the same model"
    with pytest.raises(InputError, match=reasons.get(kind, reasons_else)):
        scail2.load_transformer(tmp_path / "model.safetensors", WORDS)


def test_unknown_heads_damaged_files_and_pickled_code_are_refused(state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="number of heads of a width of 64"):
        scail2.load_transformer(tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut.safetensors is not a readable safetensors file"):
        scail2.load_transformer(tmp_path / "cut.safetensors", WORDS)
    torch.save({"module": state, "code": Path("x")}, tmp_path / "code.pt")
    with pytest.raises(InputError, match="files that need to run code are refused"):
        scail2.load_transformer(tmp_path / "code.pt", WORDS)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(InputError, match="not a readable GGUF file"):
        scail2.load_transformer(tmp_path / "bad.gguf", WORDS)
    for name, message in (("nothing.safetensors", "no file or folder"), (".", "exactly one set of weights")):
        with pytest.raises(InputError, match=message):
            scail2.load_transformer(tmp_path / name, WORDS)


# ---- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["diffusers", "official", "comfy"])
@pytest.mark.parametrize("source", ["official", "training", "gguf"])
def test_conversion_streams_any_dialect_into_any_layout(state, tmp_path, source, to):
    path = tmp_path / {"official": "m.safetensors", "training": "m.pt", "gguf": "m.gguf"}[source]
    if source == "gguf":
        save_gguf(state, path, "Q8_0")
    else:
        (save_file if source == "official" else save_training)(state, path)
    out = tmp_path / ("out" if to == "diffusers" else "out.safetensors")
    assert (
        convert_transformer(SCAIL2Transformer3DModel, path, out, to=to, config=WORDS, torch_dtype=torch.float32)
        == source
    )
    # The configuration travels with the file.
    assert_equal(loaded_state(out, config=None), loaded_state(path))
    if to == "diffusers":
        model = SCAIL2Transformer3DModel.from_pretrained(out)
        assert_equal({to_official_name(n): v for n, v in model.state_dict().items()}, loaded_state(path))
    else:
        assert set(load_file(out)) == set(state)


def test_official_files_keep_their_islands_and_comfy_files_are_all_bfloat16(state, tmp_path):
    save_file(state, tmp_path / "m.safetensors")
    convert_transformer(
        SCAIL2Transformer3DModel, tmp_path / "m.safetensors", tmp_path / "c.safetensors", to="comfy", config=WORDS
    )
    assert {value.dtype for value in load_file(tmp_path / "c.safetensors").values()} == {torch.bfloat16}
    options = {"to": "official", "config": WORDS, "torch_dtype": torch.bfloat16}
    convert_transformer(SCAIL2Transformer3DModel, tmp_path / "m.safetensors", tmp_path / "o.safetensors", **options)
    stored = load_file(tmp_path / "o.safetensors")
    assert stored["time_embedding.0.weight"].dtype == torch.float32
    assert stored["blocks.0.ffn.0.weight"].dtype == torch.bfloat16
    with pytest.raises(InputError, match=r"one \.safetensors file"):
        convert_transformer(
            SCAIL2Transformer3DModel, tmp_path / "m.safetensors", tmp_path / "o.pt", to="official", config=WORDS
        )


def test_a_model_in_memory_is_saved_with_its_unusual_configuration(tmp_path):
    model = bare_transformer()
    save_official(model, tmp_path / "nano.safetensors")
    loaded = scail2.load_transformer(tmp_path / "nano.safetensors")
    assert loaded.config.prediction_type == "sample"
    assert loaded.config.rope_theta == 100.0
    assert loaded.config.text_dim is None
    assert_equal(loaded.state_dict(), model.state_dict())
    assert CONFIG_KEY in open_tensor_file(tmp_path / "nano.safetensors").metadata


def test_files_appear_only_when_they_are_complete(tmp_path):
    (tmp_path / "m.safetensors").write_text("before")

    def read(name, dtype):
        if name == "b":
            raise KeyboardInterrupt
        return torch.zeros(2, dtype=dtype)

    plan = {"a": ((2,), torch.float32), "b": ((2,), torch.float32)}
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "m.safetensors", plan, read)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    assert (tmp_path / "m.safetensors").read_text() == "before"
    with atomic_file(tmp_path / "deep" / "x") as file:
        file.write(b"1")
    assert (tmp_path / "deep" / "x").read_bytes() == b"1"


# ---- from_single_file ---------------------------------------------------------------------------------------------


def test_from_single_file_infers_the_configuration_and_keeps_islands(state, tmp_path):
    save_file(state, tmp_path / "m.safetensors")
    model = SCAIL2Transformer3DModel.from_single_file(
        str(tmp_path / "m.safetensors"), original_config=WORDS, torch_dtype=torch.bfloat16
    )
    assert model.scale_shift_table.dtype == torch.float32
    assert model.proj_out.weight.dtype == torch.float32
    assert model.patch_embedding.weight.dtype == torch.bfloat16
    from_state = SCAIL2Transformer3DModel.from_single_file(dict(state), original_config=WORDS)
    assert_equal({to_official_name(n): v for n, v in from_state.state_dict().items()}, state)


def test_from_single_file_with_gguf_blocks_kept(state, tmp_path):
    save_gguf(state, tmp_path / "m.gguf", "Q8_0")
    model = SCAIL2Transformer3DModel.from_single_file(
        str(tmp_path / "m.gguf"),
        original_config=WORDS,
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        torch_dtype=torch.float32,
    )
    layer = model.blocks[1].ffn.net[2]
    assert layer.weight.dtype == torch.uint8
    plain = scail2.load_transformer(tmp_path / "m.gguf", WORDS, torch.float32).blocks[1].ffn.net[2]
    x = torch.randn(3, 96)
    # diffusers dequantises Q8_0 through half precision scales.
    assert torch.allclose(layer(x), plain(x), atol=1e-3)
