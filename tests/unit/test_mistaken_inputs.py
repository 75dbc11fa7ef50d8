"""What is handed over by mistake is refused at the pipeline's door, before anything is computed, in the caller's words."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from PIL import Image
from tiny import SIZE, bare_pipeline, footage, patch_vae

from scail2.devices import wanted_dtype
from scail2.errors import InputError
from scail2.loading.by_name import load_pipeline
from scail2.masks import BINDING_SLOTS, paint_mask

FRAMES = 5
CLIP = footage(FRAMES)
IMAGE, VIDEO = CLIP["image"], CLIP["driving_video"]
PLANES, DRIVING_PLANES = CLIP["reference_mask"], CLIP["driving_mask"]
FLOATS = torch.from_numpy(IMAGE).permute(2, 0, 1).float()
FILM = torch.from_numpy(VIDEO).permute(0, 3, 1, 2).float()
GREY = Image.fromarray(PLANES[0].astype(np.uint8) * 255)


@pytest.fixture(scope="module")
def pipe():
    return bare_pipeline()


def given(**changes):
    inputs = {"image": IMAGE, "driving_video": VIDEO, "reference_mask": PLANES, "driving_mask": DRIVING_PLANES}
    return inputs | {"mode": "animation", "num_inference_steps": 1} | changes


def told(pipe, **changes):
    """The sentence with which a call is refused."""
    arguments = given(**changes)
    arguments = {name: value for name, value in arguments.items() if value is not ...}
    with pytest.raises(InputError) as refused:
        next(pipe.stream(**arguments))
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert len(sentence) < 500
    return sentence


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, "image is missing"),
        ("hero.png", "image is a path, not a picture: open it with scail2.read_image('hero.png')"),
        ([IMAGE], "image is a list of 1 where one picture is meant"),
        (IMAGE[None], "a batch of 1 where one picture is meant: take image[0]"),
        (np.moveaxis(IMAGE, -1, 0), "with its channels first: np.moveaxis(image, 0, -1) makes (H, W, 3)"),
        (torch.from_numpy(IMAGE).permute(2, 0, 1), "with its channels first: image.permute(1, 2, 0) makes (H, W, 3)"),
        (IMAGE / 255, "in floats: (x * 255).round().astype(np.uint8) makes bytes of it"),
        (IMAGE.astype(np.float32), "in floats: x.round().astype(np.uint8) makes bytes of it"),
        (IMAGE / 127.5 - 1, "in floats: ((x + 1) * 127.5).round().astype(np.uint8) makes bytes of it"),
        (IMAGE.astype(np.int64), "image.astype(np.uint8) makes bytes of it"),
        (FLOATS, "image holds floats from 0 to 254; a float tensor is read as [-1, 1]: pass x / 127.5 - 1"),
        (FLOATS / 255, "as pictures in [0, 1] do; a float tensor is read as [-1, 1]: pass x * 2 - 1"),
        (FLOATS * float("nan"), "image holds values that are no numbers"),
        (FLOATS[None] / 127.5 - 1, "a batch of 1 where one picture is meant: take image[0]"),
        (PLANES[0][..., None].repeat(3, -1), "true and false make a mask, not a picture"),
        (np.zeros((0, 4, 3), np.uint8), "it is empty"),
        (7, "image must be a PIL image"),
    ],
)
def test_pictures(pipe, image, words):
    assert words in told(pipe, image=image)


@pytest.mark.parametrize(
    ("video", "words"),
    [
        (None, "driving_video is missing"),
        ("dance.mp4", "driving_video is a path, not a video: open it with scail2.VideoReader('dance.mp4')"),
        (Image.fromarray(VIDEO[0]), "driving_video is one picture where a video is meant"),
        (VIDEO[0], "driving_video is one picture, a uint8 array (32, 32, 3), where a video (T, H, W, 3) is meant"),
        ([], "driving_video has no frames"),
        (iter(VIDEO), "driving_video is an iterator, which can be read only once: give list(...) of it"),
        ([list(VIDEO)], "frame 0 of driving_video is a list of 5 where one picture is meant"),
        ([VIDEO[0], VIDEO[1][:16]], "frames 0 and 1 of driving_video are of different sizes, 32x32 and 32x16"),
        (VIDEO[None], "a batch of 1 where one video is meant: take driving_video[0]"),
        (np.moveaxis(VIDEO, -1, 1), "with its channels first: np.moveaxis(driving_video, 1, -1) makes (T, H, W, 3)"),
        (VIDEO / 255, "in floats: (x * 255).round().astype(np.uint8) makes bytes of it"),
        (FILM, "driving_video holds floats from"),
        (FILM / 255, "as pictures in [0, 1] do"),
        (FILM.transpose(0, 1), "frames come first, (T, H, W, 3), and in float tensors (T, 3, H, W)"),
        (torch.from_numpy(VIDEO).float(), "in floats: x.round().to(torch.uint8) makes bytes of it"),
    ],
)
def test_videos(pipe, video, words):
    assert words in told(pipe, driving_video=video)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, "reference_mask is missing"),
        ("mask.png", "reference_mask is a path, not a mask: open it with scail2.read_image('mask.png')"),
        ([PLANES[0], PLANES[0]], "reference_mask is a list of 2 where one mask is meant"),
        (
            GREY,
            "reference_mask is a grey picture, which does not say which character it shows: give bool, np.asarray(reference",
        ),
        (
            np.asarray(GREY),
            "without colours: which character it shows is said by palette colours (..., 3), or by bool planes: ",
        ),
        (np.asarray(GREY) // 255 * 2, "np.stack([reference_mask == k for k in range(1, 3)])"),
        (PLANES.astype(np.float32), "in floats: give bool planes, x > 0.5, one for each character, (S, H, W)"),
        (
            PLANES.repeat(7, 0).transpose(1, 2, 0)[..., :1],
            "planes come first, (S, H, W); np.moveaxis(reference_mask, -1, 0)",
        ),
        (PLANES.repeat(7, 0), "shows 7 characters; the model binds at most 6"),
        (PLANES[None], "bool planes are (S, H, W), one for each character, or (H, W)"),
        (PLANES[..., :16], "reference_mask has 16x32 pixels and its picture 32x32"),
        (
            np.asarray(GREY.convert("RGB")),
            "It is black and white, as a matte is: paint the character blue, or give a bool array",
        ),
        (np.zeros_like(PLANES), "reference mask shows no character"),
    ],
)
def test_reference_masks(pipe, mask, words):
    assert words in told(pipe, reference_mask=mask)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, "driving_mask is missing"),
        ("mask.mkv", "driving_mask is a path, not a mask: open it with scail2.VideoReader('mask.mkv')"),
        (GREY, "driving_mask is one picture where a video's mask is meant"),
        (
            [GREY] * FRAMES,
            "driving_mask holds grey pictures, which do not say which character they show: give bool, np.stack(",
        ),
        (DRIVING_PLANES[0, 0], "bool planes are (S, T, H, W), one for each character, or (T, H, W)"),
        (DRIVING_PLANES.repeat(2, 0).swapaxes(0, 1), "driving_mask has its frames first, (5, 2, 32, 32)"),
        (DRIVING_PLANES[:, :3], "the driving mask has 3 frames and the driving video 5"),
        (DRIVING_PLANES[..., :16], "driving_mask has 16x32 pixels and driving_video 32x32"),
        (DRIVING_PLANES[0].astype(np.uint8) * 255, "without colours"),
    ],
)
def test_driving_masks(pipe, mask, words):
    assert words in told(pipe, driving_mask=mask)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": ...}, "mode is missing: give mode='animation' or mode='replacement'"),
        ({"mode": None}, "mode is None; it must be 'animation' or 'replacement'"),
        ({"mode": "animate"}, "mode is 'animate'; it must be 'animation' or 'replacement'"),
        ({"mode": 1}, "mode is 1; it must be"),
        ({"prompt": ["a puppet"]}, "prompt is a list of 1; it must be text. One film is made at a time: prompt[0]."),
        (
            {"generator": 7},
            "generator is 7; it must be a torch.Generator. For a seed: torch.Generator().manual_seed(7).",
        ),
        ({"generator": [torch.Generator()]}, "generator is a list of 1; it must be a torch.Generator."),
        ({"height": "32"}, "height is '32'; it must be a whole number"),
        ({"width": 32.0}, "width is 32.0; it must be a whole number"),
        ({"height": True}, "height is True; it must be a whole number"),
        ({"guidance_scale": "5"}, "guidance_scale is '5'; it must be a number"),
        (
            {"additional_references": Image.fromarray(IMAGE)},
            "additional_references is of the kind Image; it must be a list",
        ),
        ({"additional_references": [IMAGE]}, "1 additional references but 0 additional reference masks"),
        ({"history": VIDEO}, "history is of the kind ndarray; it must be a tensor"),
        ({"callback_on_step_end_tensor_inputs": "latents"}, "it must be a list of names"),
        ({"callback_on_step_end": 3}, "it must be a function"),
        ({"attention_kwargs": 0.5}, "attention_kwargs is 0.5; it must be a dictionary"),
        ({"equal_segments": "no"}, "equal_segments is 'no'; it must be True or False"),
    ],
)
def test_arguments(pipe, arguments, words):
    assert words in told(pipe, **arguments)


def test_a_misspelt_argument_is_a_type_error_with_the_right_name(pipe):
    with pytest.raises(TypeError, match="no argument 'num_inference_step'; did you mean 'num_inference_steps'"):
        next(pipe.stream(**given(num_inference_step=3)))
    with pytest.raises(TypeError, match="no argument 'xyz'"):
        pipe(**given(xyz=3))


def test_components_that_do_not_belong_together(pipe):
    ddim, plain_unipc = DDIMScheduler(), UniPCMultistepScheduler()
    for scheduler, words in (
        (ddim, "scheduler is a DDIMScheduler, which is not set up for flow matching"),
        (plain_unipc, "scheduler is a UniPCMultistepScheduler, which is not set up for flow matching"),
        (
            FlowMatchEulerDiscreteScheduler,
            "scheduler is the class FlowMatchEulerDiscreteScheduler; it must be a scheduler",
        ),
        (None, "scheduler is missing"),
    ):
        assert words in told(bare_pipeline(scheduler=scheduler))
    assert "which is not" not in told(bare_pipeline(scheduler=ddim), solver="euler", image=None)  # a solver is named
    pictures = AutoencoderKL(block_out_channels=(4,), norm_num_groups=1)
    assert "vae is a AutoencoderKL, whose configuration has no z_dim" in told(bare_pipeline(vae=pictures))
    other = type(patch_vae())(z_dim=8, num_static_channels=6)
    assert "vae makes latents of 8 channels, the transformer is made for 16" in told(bare_pipeline(vae=other))
    assert "transformer is a AutoencoderKL; this pipeline needs" in told(bare_pipeline(transformer=pictures))


def test_what_is_right_goes_on_being_right(pipe):
    """Other sizes of the same aspect, floats in [-1, 1], palette pictures and numpy's whole numbers."""
    large = PLANES.repeat(2, 1).repeat(2, 2)
    film = DRIVING_PLANES.repeat(3, 2).repeat(3, 3)
    painted = Image.fromarray(paint_mask(PLANES, BINDING_SLOTS[:1], "white").reshape(SIZE, SIZE, 3))
    generator = torch.Generator().manual_seed(0)
    expected = next(pipe.stream(**given(generator=generator))).frames
    for changes in (
        {"reference_mask": large, "driving_mask": film},
        {"image": FLOATS / 127.5 - 1, "driving_video": FILM / 127.5 - 1},
        {"reference_mask": painted, "height": np.int64(SIZE), "width": SIZE},
    ):
        frames = next(pipe.stream(**given(generator=torch.Generator().manual_seed(0), **changes))).frames
        torch.testing.assert_close(frames, expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": ["a"]}, "model is of the kind list; it must be a name or a path"),
        ({"loras": "a.safetensors"}, "loras must be a list, also for one file: ['a.safetensors']"),
        ({"dtype": "half"}, "'half' is no type for weights: choose one of float32, bfloat16, float16"),
        ({"dtype": torch.int8}, "'int8' is no type for weights"),
        ({"dtype": torch.float16, "torch_dtype": torch.bfloat16}, "they mean the same, so give dtype alone"),
    ],
)
def test_loading(arguments, words):
    with pytest.raises(InputError) as refused:
        load_pipeline(**arguments)
    assert words in str(refused.value)


def test_dtype_and_its_earlier_name_mean_the_same():
    for given in ((torch.bfloat16, None), (None, torch.bfloat16), ("bfloat16", None), (torch.bfloat16, torch.bfloat16)):
        assert wanted_dtype(*given) is torch.bfloat16
    assert wanted_dtype(None, None) is None
