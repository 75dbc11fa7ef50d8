"""SAM3 through transformers, on a tiny randomly initialised model saved and loaded like real weights."""

import shutil

import numpy as np
import pytest
import torch
from pretended_gpu import pretended_gpu
from safetensors.torch import load_file, save_file
from sam3_published import tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Sam3VideoModel

from scail2.errors import InputError
from scail2.perception.segmenters.sam3 import PixelStatistics, Sam3Segmenter
from scail2.perception.segmenters.sam3_prompts import by_frame
from scail2.request.masks import BoxPrompt, PointPrompt, Prompts
from scail2.video import ArrayFrames


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam3")
    torch.manual_seed(0)
    model = Sam3VideoModel(tiny_config())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
        # An untrained head would call everything absent.
        model.tracker_model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(60.0)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "person": 2, "dog": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(weights) -> Sam3Segmenter:
    return Sam3Segmenter.load(weights)


@pytest.fixture(scope="module")
def clip() -> ArrayFrames:
    return ArrayFrames(np.random.default_rng(0).integers(0, 255, (5, 48, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def short_clip(clip) -> ArrayFrames:
    return ArrayFrames(clip.array[:3])


def click(frame: int, character: int, x: float = 10, y: float = 10, **named) -> PointPrompt:
    return PointPrompt(frame=frame, character=character, x=x, y=y, **named)


@pytest.mark.parametrize(
    ("lost", "prompts"),
    [
        ("tracker_model.tracker_model.mask_decoder.iou_token.weight", Prompts(points=(click(0, 1),))),
        ("detector_model.detr_encoder.layers.0.mlp.fc1.weight", Prompts(text=("person",))),
    ],
)
def test_weights_that_lack_a_tensor_are_refused(weights, short_clip, tmp_path, lost, prompts):
    shutil.copytree(weights, tmp_path / "sam3")
    file = tmp_path / "sam3" / "model.safetensors"
    state = load_file(file)
    del state[lost]
    save_file(state, file, metadata={"format": "pt"})
    tail = ".".join(lost.split(".")[-3:])
    told = (
        rf"The tensors in {tmp_path / 'sam3'} are not all of a Sam3\w+: 1 missing, such as \S*{tail}; download it again"
    )
    with pytest.raises(InputError, match=told):
        Sam3Segmenter.load(tmp_path / "sam3").segment(short_clip, prompts, directory=tmp_path)


def test_points_and_boxes_number_the_characters(segmenter, clip, tmp_path):
    prompts = Prompts(points=(click(0, 1),), boxes=(BoxPrompt(frame=0, character=2, box=(30, 10, 60, 40)),))
    done = []
    found = segmenter.segment(clip, prompts, directory=tmp_path, progress=lambda a, b: done.append((a, b)))
    assert [track.number for track in found.tracks] == [1, 2]
    assert all(track.present.all() for track in found.tracks)
    assert found.labels.labels(0, 5).shape == (5, 48, 64)
    assert done[-1] == (5, 5)


def test_models_go_to_the_gpu_where_there_is_one(weights, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: asked.append(str(device)) or self)
    for available, device in ((True, None), (False, None), (True, "cpu")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda found=available: int(found))
        segmenter = Sam3Segmenter.load(weights, **({"device": device} if device else {}))
        assert segmenter._get("tracker").training is False
    assert asked == ["cuda", "cpu", "cpu"]


@pytest.mark.parametrize(
    "prompts", [Prompts(points=(PointPrompt(frame=0, character=1, x=10, y=10),)), Prompts(text=("person",))]
)
def test_a_gpu_finds_what_the_cpu_finds(weights, segmenter, short_clip, prompts, tmp_path):
    expected = segmenter.segment(short_clip, prompts).labels.labels(0, 3)
    with pretended_gpu(tmp_path):
        found = Sam3Segmenter.load(weights).segment(short_clip, prompts).labels.labels(0, 3)
    assert (found != expected).mean() < 1e-3
    assert expected.any()


def test_the_place_of_a_point_matters(segmenter, clip):
    here = segmenter.segment(clip, Prompts(points=(click(0, 1, 5, 5),))).labels.labels(0, 1)
    there = segmenter.segment(clip, Prompts(points=(click(0, 1, 60, 40),))).labels.labels(0, 1)
    assert not np.array_equal(here, there)


def test_a_correction_changes_only_later_frames(segmenter, clip):
    plain = segmenter.segment(clip, Prompts(points=(click(0, 1),)))
    prompts = Prompts(points=(click(0, 1), click(3, 1, 50, 40, inside=False), click(3, 1, 12, 30)))
    corrected = segmenter.segment(clip, prompts)
    assert np.array_equal(plain.labels.labels(0, 3), corrected.labels.labels(0, 3))
    assert not np.array_equal(plain.labels.labels(3, 5), corrected.labels.labels(3, 5))


def test_frames_before_the_first_point_are_followed_backwards(segmenter, clip, tmp_path):
    found = segmenter.segment(clip, Prompts(points=(click(3, 1), click(4, 2, 50, 30))), directory=tmp_path)
    assert len(found) == 5
    assert found.tracks[0].present[:3].any()
    assert found.tracks[1].first_frame >= 4 or found.tracks[1].first_frame == -1


@pytest.fixture(scope="module")
def found(segmenter, short_clip):
    return segmenter.segment(short_clip, Prompts(text=("person",)))


def test_text_finds_names_and_numbers(found):
    assert found.tracks
    assert {track.name for track in found.tracks} == {"person"}
    assert all(0 < track.mean_confidence <= 1 for track in found.tracks if track.first_frame >= 0)


def test_only_as_many_as_expected_are_kept(segmenter, short_clip, found):
    kept = segmenter.segment(ArrayFrames(short_clip.array[:1]), Prompts(text=("person",), characters=1))
    (track,) = kept.tracks
    assert track.areas[0] == max(int(each.areas[0]) for each in found.tracks if each.mean_confidence > 0)


def test_text_can_be_corrected(segmenter, short_clip, found):
    corrected = segmenter.segment(short_clip, Prompts(text=("person",), points=(click(2, 1),)))
    assert np.array_equal(found.labels.labels(0, 2), corrected.labels.labels(0, 2))
    assert not np.array_equal(found.labels.labels(2, 3), corrected.labels.labels(2, 3))


def test_corrections_of_unknown_characters_are_refused(segmenter, short_clip):
    still = ArrayFrames(short_clip.array[:1])
    with pytest.raises(InputError, match="name character 99"):
        segmenter.segment(still, Prompts(text=("person",), points=(click(0, 99),)))


def test_tracking_memory_is_dropped(segmenter, monkeypatch):
    monkeypatch.setattr("scail2.perception.segmenters.sam3._LOOK_BACK", 3)
    sessions = []
    build = Sam3Segmenter._session
    monkeypatch.setattr(Sam3Segmenter, "_session", lambda *args: sessions.append(build(*args)) or sessions[-1])
    frames = np.random.default_rng(1).integers(0, 255, (9, 32, 32, 3), dtype=np.uint8)
    segmenter.segment(ArrayFrames(frames), Prompts(points=(click(0, 1, 8, 8),)))
    (kept,) = sessions[0].output_dict_per_obj.values()
    assert set(kept["cond_frame_outputs"]) == {0}
    assert set(kept["non_cond_frame_outputs"]) == {5, 6, 7, 8}


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (Prompts(), "told what to look for"),
        (Prompts(points=(click(9, 1),)), "frames 0 to 4"),
        (Prompts(points=(click(0, 1, 999, 5),)), "outside"),
        (Prompts(points=(click(0, 0),)), "from 1"),
        (Prompts(boxes=(BoxPrompt(frame=0, character=1, box=(20, 10, 20, 40)),)), "empty"),
    ],
)
def test_useless_prompts_are_refused(segmenter, clip, prompts, said):
    with pytest.raises(InputError, match=said):
        segmenter.segment(clip, prompts)


def test_two_boxes_on_one_character_are_refused():
    box = BoxPrompt(frame=0, character=1, box=(0, 0, 5, 5))
    with pytest.raises(InputError, match="two boxes"):
        by_frame(Prompts(boxes=(box, box)))


def test_boxes_come_before_points_in_model_pixels(clip):
    prompts = Prompts(points=(click(0, 1, 32, 24),), boxes=(BoxPrompt(frame=0, character=1, box=(0, 0, 64, 48)),))
    coordinates, labels = by_frame(prompts)[0][1].scaled(128, clip)
    assert coordinates.tolist() == [[[[0, 0], [128, 128], [64, 64]]]]
    assert labels.tolist() == [[[2, 3, 1]]]


def test_missing_or_foreign_weights_are_refused(tmp_path, clip):
    with pytest.raises(InputError, match="no SAM3 weights"):
        Sam3Segmenter.load(tmp_path / "nowhere").segment(clip, Prompts(points=(click(0, 1),)))
    with pytest.raises(InputError, match="cannot be loaded"):
        Sam3Segmenter.load(tmp_path).segment(clip, Prompts(points=(click(0, 1),)))


def test_pixel_statistics_come_from_the_weights_folder(tmp_path):
    assert PixelStatistics.read(str(tmp_path)) == PixelStatistics()
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}')
    assert PixelStatistics.read(str(tmp_path)).mean == (0.1, 0.2, 0.3)
