"""SAM3 as one file: Meta's names and layout, loaded like the folder of transformers."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sam3_published import SIDE, WIDE, published_state, rotations, tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Sam3VideoConfig, Sam3VideoModel

from scail2.checkpoints.sam3_file import open_sam3, sam3_config
from scail2.cli.app import main
from scail2.errors import InputError
from scail2.masks import BindingSlot
from scail2.perception.segmenters.sam3 import Sam3Segmenter
from scail2.request.masks import BoxPrompt, PointPrompt, Prompts
from scail2.video import ArrayFrames, VideoReader, VideoWriter

CLICK = PointPrompt(frame=0, character=1, x=10, y=10)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def published_config() -> Sam3VideoConfig:
    """The tiny configuration with heads as wide as the published ones, and its thresholds as published."""
    tiny = tiny_config().to_dict()
    grid = SIDE // 14
    detector, tracker = tiny["detector_config"], tiny["tracker_config"]
    detector["text_config"] |= {
        "hidden_size": 128, "intermediate_size": 48, "projection_dim": 24, "num_attention_heads": 2, "hidden_act": "gelu",
        "pad_token_id": 1,
    }  # fmt: skip
    for part in ("geometry_encoder", "detr_encoder", "detr_decoder", "mask_decoder"):
        detector[f"{part}_config"]["num_attention_heads"] = WIDE // 32
    tracker["mask_decoder_config"]["num_attention_heads"] = WIDE // 32
    tracker["memory_attention_rope_feat_sizes"] = [grid, grid]
    return Sam3VideoConfig(detector_config=detector, tracker_config=tracker, low_res_mask_size=4 * grid)


def vision_of(config: Sam3VideoConfig) -> dict:
    return config.detector_config.vision_config.backbone_config.to_dict()


@pytest.fixture(scope="module")
def model() -> Sam3VideoModel:
    torch.manual_seed(0)
    model = Sam3VideoModel(published_config())
    with torch.no_grad():
        for parameter in model.parameters():
            # Biases and norms too: a name that is mistaken for another of its shape must not go unseen.
            parameter.add_(torch.randn_like(parameter) * 0.05) if parameter.ndim < 2 else parameter.mul_(4)
        model.tracker_model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(60.0)
        model.detector_model.detr_decoder.presence_head.layer3.bias.fill_(60.0)
        # One tensor under two names, in the published model too.
        positions = model.tracker_model.prompt_encoder.shared_embedding.positional_embedding
        model.tracker_model.shared_image_embedding.positional_embedding.copy_(positions)
    return model


@pytest.fixture(scope="module")
def state(model) -> dict[str, torch.Tensor]:
    found = published_state(model.state_dict())
    tables = rotations({}, vision_of(model.config))
    return {name: value.clone() for name, value in found.items()} | {
        name: torch.ones_like(value, device="cpu") for name, value in tables.items()
    }


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "person": 2, "dog": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["sam3.pt", "sam3.safetensors"])
def file(request, state, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / request.param
    if path.suffix == ".pt":
        torch.save({"model": state}, path)  # as published files often are
    else:
        save_file(state, path)
    return path


@pytest.fixture(scope="module")
def clip() -> ArrayFrames:
    return ArrayFrames(np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), dtype=np.uint8))


def equal(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    for kind in ("named_parameters", "named_buffers"):
        one, other = dict(getattr(ours, kind)()), dict(getattr(theirs, kind)())
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


def settings(words: dict) -> dict:
    """A configuration without what transformers notes down when it loads a folder."""
    noted = ("architectures", "dtype", "_name_or_path", "torch_dtype")
    return {k: settings(v) if isinstance(v, dict) else v for k, v in words.items() if k not in noted}


def test_a_file_gives_the_models_of_the_folder(file, folder):
    one, other = Sam3Segmenter.load(file, device="cpu"), Sam3Segmenter.load(folder, device="cpu")
    for kind in ("detector", "tracker"):
        equal(one._get(kind), other._get(kind))
        assert not one._get(kind).training
        sizes = [settings(each._get(kind).config.to_dict()) for each in (one, other)]
        assert sizes[0] == sizes[1]


def test_points_and_boxes_need_no_vocabulary(file, folder, clip):
    prompts = Prompts(points=(CLICK,), boxes=(BoxPrompt(frame=0, character=2, box=(30, 10, 60, 40)),))
    one, other = (Sam3Segmenter.load(each, device="cpu").segment(clip, prompts) for each in (file, folder))
    assert np.array_equal(one.labels.labels(0, 3), other.labels.labels(0, 3))
    assert [track.confidence.tolist() for track in one.tracks] == [track.confidence.tolist() for track in other.tracks]
    assert len(np.unique(one.labels.labels(0, 3))) > 1


def test_the_command_takes_a_file(file, folder, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(clip.array[0]).save("reference.png")
    mask = np.full((48, 64, 3), 255, np.uint8)
    mask[10:40, 20:40] = BindingSlot.BLUE.rgb
    Image.fromarray(mask).save("reference_mask.png")
    with VideoWriter(tmp_path / "driving.mkv", Fraction(16), (48, 64), codec="ffv1") as writer:
        writer.write(clip.array)
    inputs = ["--reference", "reference.png", "--reference-mask", "reference_mask.png", "--driving", "driving.mkv"]
    stored = []
    for name, weights in (("one", file), ("other", folder)):
        with pytest.raises(SystemExit) as stop:
            main(["masks", *inputs, "--sam3", str(weights), "--point", "0:1:10,10", "--output", name])
        assert not stop.value.code
        stored.append(np.stack(list(VideoReader(tmp_path / name / "driving_mask.mkv").frames(0, 3))))
    assert np.array_equal(*stored)
    assert len(np.unique(stored[0].reshape(-1, stored[0].shape[-1]), axis=0)) > 1


def test_text_needs_a_vocabulary_beside_the_file(file, folder, clip):
    segmenter = Sam3Segmenter.load(file, device="cpu")
    with pytest.raises(InputError, match=r"put tokenizer\.json of facebook/sam3"):
        segmenter.segment(clip, Prompts(text=("person",)))
    beside = file.with_name("tokenizer.json")
    beside.write_bytes((folder / "tokenizer.json").read_bytes())
    try:
        one, other = (
            Sam3Segmenter.load(each, device="cpu").segment(clip, Prompts(text=("person",))) for each in (file, folder)
        )
        assert np.array_equal(one.labels.labels(0, 3), other.labels.labels(0, 3))
        assert one.labels.labels(0, 3).any()
        Tokenizer(models.WordLevel({f"word{i}": i for i in range(30)}, unk_token="word0")).save(str(beside))
        with pytest.raises(InputError, match="vocabulary of another model"):
            Sam3Segmenter.load(file, device="cpu").segment(clip, Prompts(text=("person",)))
    finally:
        beside.unlink()


@pytest.mark.parametrize("tables", [True, False])
def test_sizes_of_the_published_file_are_those_of_the_published_configuration(tables, tmp_path):
    config = Sam3VideoConfig()
    with torch.device("meta"):
        full = published_state(Sam3VideoModel(config).state_dict())
    if tables:
        rotations(full, vision_of(config))
    # Shapes only: a sparse file of the right length stands for the numbers.
    path = tmp_path / "sam3.safetensors"
    sparse(path, full)
    ours, theirs = sam3_config(open_sam3(path)).to_dict(), config.to_dict()
    assert ours == theirs


def sparse(path, state) -> None:
    """A safetensors file whose numbers are all holes."""
    names = {torch.float32: "F32", torch.complex64: "C64"}
    header, end = {}, 0
    for name, value in state.items():
        begin, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": names[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)


def test_without_tables_of_rotations_sides_are_as_published(state, tmp_path):
    plain = {name: value for name, value in state.items() if "freqs_cis" not in name}
    save_file(plain, tmp_path / "sam3.safetensors")
    backbone = sam3_config(open_sam3(tmp_path / "sam3.safetensors")).detector_config.vision_config.backbone_config
    assert (backbone.image_size, backbone.window_size, backbone.hidden_size) == (1008, 24, 32)


def test_what_is_missing_or_too_much_is_named(state, tmp_path, clip):
    path = tmp_path / "sam3.safetensors"
    gone = "tracker.maskmem_backbone.fuser.layers.0.gamma"
    save_file({n: v for n, v in state.items() if n != gone} | {"detector.new_part.weight": torch.zeros(2)}, path)
    with pytest.raises(InputError) as told:
        Sam3Segmenter.load(path, device="cpu").segment(clip, Prompts(points=(CLICK,)))
    assert "1 missing: memory_encoder.memory_fuser.layers.0.scale" in str(told.value)
    assert "1 unexpected: detector.new_part.weight" in str(told.value)


@pytest.mark.parametrize(
    "name",
    [
        "detector.backbone.vision_backbone.propagation_convs.0.conv_1x1.weight",
        "tracker.model.sam_mask_decoder.iou_token.weight",
        "tracker_model.interactive_sam_prompt_encoder.mask_embed.conv1.weight",
    ],
)
def test_the_multiplex_model_is_told_by_its_names(name, tmp_path):
    path = tmp_path / "anything.safetensors"
    save_file({"detector.backbone.vision_backbone.trunk.pos_embed": torch.zeros(1, 2, 3), name: torch.zeros(1)}, path)
    for given in (path, tmp_path):
        with pytest.raises(
            InputError, match=r"is SAM 3\.1 \(multiplex\).* take SAM 3, as Meta's sam3\.pt or .*facebook/sam3"
        ):
            Sam3Segmenter.load(given)


def test_other_files_are_not_sam3(tmp_path):
    save_file({"image_encoder.trunk.pos_embed": torch.zeros(1)}, tmp_path / "sam2.safetensors")
    with pytest.raises(InputError, match=r"is not SAM3: it begins with 'image_encoder\.trunk\.pos_embed'"):
        Sam3Segmenter.load(tmp_path / "sam2.safetensors")
    (tmp_path / "sam3.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"sam3\.pt"):
        Sam3Segmenter.load(tmp_path / "sam3.pt")
    with pytest.raises(InputError, match="holds several weights"):
        Sam3Segmenter.load(tmp_path)


def test_the_weights_inside_a_folder_are_that_folder(folder, clip):
    prompts = Prompts(points=(CLICK,))
    one, other = (Sam3Segmenter.load(each, device="cpu") for each in (folder / "model.safetensors", folder))
    found = [each.segment(clip, prompts).labels.labels(0, 3) for each in (one, other)]
    assert np.array_equal(*found)
    assert one._get("tokenizer")("dog").input_ids == [3]
