"""What users hand in, made into tensors: kinds of pictures and masks, windows, padding, and embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from tiny import footage, tiny_image_encoder, tiny_text_encoder, tiny_tokenizer

from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.pipeline.embeds import CLIP_MEAN, CLIP_STD, clean_prompt, embed_picture, embed_prompt
from scail2.pipeline.inputs import (
    driving_footage,
    driving_mask_footage,
    mask_problems,
    mask_tensor,
    picture_tensor,
    read_picture,
)
from scail2.video import VideoReader, read_image

MASKS = Path(__file__).parents[1] / "media" / "masks"
ANIMATION, REPLACEMENT = AnimationMode.ANIMATION, AnimationMode.REPLACEMENT


def test_every_kind_of_picture_means_the_same_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    for picture in (pixels, Image.fromarray(pixels), tensor, tensor.double(), torch.from_numpy(pixels)):
        assert np.array_equal(read_picture(picture, "image"), pixels)
    made = picture_tensor(pixels, "image", (8, 12))
    assert made.shape == (1, 3, 8, 12)
    torch.testing.assert_close(made[0], tensor)
    assert picture_tensor(pixels, "image", (16, 16)).shape == (1, 3, 16, 16)
    grey = Image.fromarray(pixels[..., 0])
    assert np.array_equal(read_picture(grey, "image"), np.repeat(pixels[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("RGBA", (8, 8)), "transparent"),
        (np.zeros((8, 8, 4), np.uint8), "transparent"),
        (np.zeros((4, 4, 5), np.uint8), "must be a PIL image"),
        (np.zeros((4, 4, 3)), "float64"),
        (torch.zeros(4, 4, 3), r"\(4, 4, 3\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "uint8"),
        ("photo.png", r"read_image\('photo.png'\)"),
        (None, "the image is missing"),
    ],
)
def test_other_things_are_refused(picture, message):
    with pytest.raises(InputError, match=message):
        read_picture(picture, "the image")


def test_a_pillow_picture_and_an_array_mean_what_their_file_means(tmp_path):
    """16 bits, a turn, a profile, a palette, an opaque alpha channel: the same pixels through every door."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    wide = rng.integers(0, 65536, (12, 16), dtype=np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6
    linear = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    options = {
        "turned.png": (Image.fromarray(pixels), {"exif": turned}),
        "sixteen.png": (Image.fromarray(wide), {}),
        "palette.png": (Image.fromarray(pixels).quantize(16), {}),
        "profile.png": (Image.fromarray(pixels), {"icc_profile": linear}),
        "opaque.png": (Image.fromarray(np.dstack([pixels, np.full((12, 16), 255, np.uint8)])), {}),
        "cmyk.tif": (Image.fromarray(pixels).convert("CMYK"), {}),
        "bits.png": (Image.fromarray(pixels[..., 0] > 127), {}),
    }
    for name, (picture, saved) in options.items():
        picture.save(tmp_path / name, **saved)
        with Image.open(tmp_path / name) as opened:
            assert np.array_equal(read_picture(opened, "image"), read_image(tmp_path / name)), name
    assert read_image(tmp_path / "turned.png").shape == (16, 12, 3)
    scaled = np.repeat(np.rint(wide / 257).astype(np.uint8)[..., None], 3, axis=2)
    assert np.array_equal(read_image(tmp_path / "sixteen.png"), scaled)
    for array in (wide, wide[..., None], np.repeat(wide[..., None], 3, axis=2), torch.from_numpy(wide)):
        assert np.array_equal(read_picture(array, "image"), scaled)
    assert np.array_equal(read_picture(pixels[..., 0], "image"), np.repeat(pixels[..., :1], 3, axis=2))


@pytest.mark.parametrize("door", ["arrays", "pictures", "reader"])
def test_blurred_masks_are_snapped_here_too(tmp_path, door):
    """The mask that the command line takes: H.264, thin lines of white and cyan around a green puppet."""
    with VideoReader(MASKS / "mask17.mkv") as reader, VideoReader(MASKS / "mask_h264_crf19.mp4") as lossy:
        right, blurred = reader.frames(0, 17), lossy.frames(0, 17)
        mask = {"arrays": blurred, "pictures": [*map(Image.fromarray, blurred)], "reader": lossy}[door]
        found = driving_mask_footage(mask, (128, 128), 17, ANIMATION)
        assert np.array_equal(found.window(3, 17), right[3:])
    assert np.array_equal(mask_tensor(Image.fromarray(blurred[0]), "mask", (128, 128), ANIMATION)[0], right[0])


def test_masks_of_zeros_and_ones_are_named():
    mask = np.zeros((5, 16, 16, 3), np.uint8)
    mask[:, 4:9] = 1
    with pytest.raises(InputError, match="the driving mask holds only the values 0 and 1"):
        driving_mask_footage(mask, (16, 16), 5, ANIMATION).window(0, 5)
    with pytest.raises(InputError, match="reference_mask holds only the values 0 and 1"):
        mask_tensor(mask[0], "reference_mask", (16, 16), ANIMATION)


def test_character_planes_are_painted_for_their_mode():
    planes = np.zeros((2, 8, 8), bool)
    planes[0, 0], planes[1, 7] = True, True
    for mode, background in ((ANIMATION, 255), (REPLACEMENT, 0)):
        mask = mask_tensor(planes, "mask", (8, 8), mode)
        assert mask.shape == (1, 8, 8, 3)
        assert mask[0, 0, 0].tolist() == [0, 0, 255]
        assert mask[0, 7, 0].tolist() == [255, 0, 0]
        assert mask[0, 1, 0].tolist() == [background] * 3
        video = driving_mask_footage(planes[:, None].repeat(3, 1), (8, 8), 3, mode).window(1, 3)
        assert video.shape == (2, 8, 8, 3)
        assert video[0, 1, 0].tolist() == [255 - background] * 3


def test_masks_are_resized_without_new_colours():
    mask = np.zeros((9, 9, 3), np.uint8)
    mask[:, 4:] = (0, 0, 255)
    resized = mask_tensor(mask, "mask", (32, 32), ANIMATION)
    assert {tuple(c) for c in resized.reshape(-1, 3).tolist()} == {(0, 0, 0), (0, 0, 255)}


def test_windows_are_padded_with_their_last_frame():
    video = np.arange(7, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    footage = driving_footage(video, None, None)
    assert footage.size == (8, 8)
    assert len(footage) == 7
    assert footage.window(4, 7, 5)[:, 0, 0, 0].tolist() == [4, 5, 6, 6, 6]
    assert footage.window(0, 3)[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert driving_footage(video, 16, None).window(0, 1).shape == (1, 16, 8, 3)


def test_every_kind_of_video_and_mask_means_the_same_frames():
    clip = footage(3)
    video, planes = clip["driving_video"], clip["driving_mask"]
    floats = torch.from_numpy(video).permute(0, 3, 1, 2).float() / 127.5 - 1
    for given in (video, torch.from_numpy(video), floats, [Image.fromarray(frame) for frame in video]):
        assert np.array_equal(driving_footage(given, None, None).window(0, 3), video)
    expected = driving_mask_footage(planes, (32, 32), 3, ANIMATION).window(0, 3)
    for given in (planes[0], torch.from_numpy(planes), list(expected)):
        assert np.array_equal(driving_mask_footage(given, (32, 32), 3, ANIMATION).window(0, 3), expected)
    reference = mask_tensor(clip["reference_mask"], "mask", (32, 32), ANIMATION)
    assert torch.equal(mask_tensor(clip["reference_mask"][0], "mask", (32, 32), ANIMATION), reference)
    assert torch.equal(mask_tensor(reference[0], "mask", (32, 32), ANIMATION), reference)


@pytest.mark.parametrize("video", [np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 4, 3), np.uint8), "clip.mp4", [1, 2]])
def test_other_videos_are_refused(video):
    with pytest.raises(InputError):
        driving_footage(video, None, None)


def test_a_character_seen_briefly_is_bound():
    """Frames 101 … 103 of 1000 lie between the frames that are judged."""
    clip = footage(1000, characters=2)
    clip["driving_mask"][1, :101] = clip["driving_mask"][1, 104:] = False
    reference = mask_tensor(clip["reference_mask"], "mask", (32, 32), ANIMATION)
    masks = driving_mask_footage(clip["driving_mask"], (32, 32), 1000, ANIMATION)
    assert mask_problems(reference[0], masks, ANIMATION) == []
    clip["driving_mask"][1] = False
    masks = driving_mask_footage(clip["driving_mask"], (32, 32), 1000, ANIMATION)
    (problem,) = mask_problems(reference[0], masks, ANIMATION)
    assert "nothing is bound" in problem


def test_masks_are_judged_over_the_whole_video():
    clip = footage(200)
    clip["driving_mask"][0, :100] = False
    reference = mask_tensor(clip["reference_mask"], "mask", (32, 32), ANIMATION)
    masks = driving_mask_footage(clip["driving_mask"], (32, 32), 200, ANIMATION)
    assert mask_problems(reference[0], masks, ANIMATION) == []
    problems = mask_problems(reference[0], masks, REPLACEMENT)
    assert len(problems) == 2
    assert all("background" in problem for problem in problems)


def test_additional_references_have_their_own_backgrounds_but_no_colours_of_their_own():
    clip = footage(3)
    reference, planes = mask_tensor(clip["reference_mask"], "mask", (32, 32), ANIMATION)[0], clip["driving_mask"]
    masks = driving_mask_footage(planes, (32, 32), 3, ANIMATION)
    view = torch.zeros(32, 32, 3, dtype=torch.uint8)
    view[8:20, 8:20, 2] = 255
    scene = torch.full((32, 32, 3), 255, dtype=torch.uint8)
    assert mask_problems(reference, masks, ANIMATION, [view, view, scene]) == []
    # Not even many of them outvote the primary reference's background.
    (problem,) = mask_problems(view, masks, ANIMATION, [reference] * 3)
    assert problem == "The reference mask has a black background; animation mode needs a white one."
    view[8:20, 8:20, 1] = 255
    (problem,) = mask_problems(reference, masks, ANIMATION, [scene, view])
    assert problem == "The mask of additional reference 2 shows cyan, in which nobody is bound."
    (problem,) = mask_problems(reference, masks, ANIMATION, [torch.full_like(scene, 128)])
    assert problem.startswith("100% of the mask of additional reference 1 is not in the palette")


def test_a_character_that_only_an_additional_reference_shows_is_bound():
    clip = footage(3, characters=2)
    masks = driving_mask_footage(clip["driving_mask"], (32, 32), 3, ANIMATION)
    first, second = (mask_tensor(planes, "mask", (32, 32), ANIMATION)[0] for planes in _one_each(clip))
    assert mask_problems(first, masks, ANIMATION, [second]) == []
    (problem,) = mask_problems(first, masks, ANIMATION)
    assert "The driving mask uses red" in problem


def _one_each(clip: dict) -> tuple[np.ndarray, np.ndarray]:
    """The reference's two character planes, in their slots' order, with only one of them shown."""
    shown = clip["reference_mask"]
    return shown * np.array([True, False])[:, None, None], shown * np.array([False, True])[:, None, None]


CLEANED = {
    "“curly” ‘quotes’": "\"curly\" 'quotes'",
    "full-width， punctuation！（here）": "full-width, punctuation!(here)",
    "ﬁlm of a ﬂute": "film of a flute",
    "cafe\u0301": "café",
    "cafÃ© aprÃ¨s": "café après",
    "a &lt;b&gt; &amp;amp; c": "a <b> & c",
    "  two\n\tlines\u3000and  blanks ": "two lines and blanks",
    "Ｆｕｌｌ　ｗｉｄｔｈ": "Full width",
    "zero\u200bwidth": "zero\u200bwidth",
    "bell\x07": "bell",
    "跳舞的人": "跳舞的人",
}


@pytest.mark.parametrize("text", CLEANED)
def test_prompts_are_cleaned_as_captions_were(text):
    assert clean_prompt(text) == CLEANED[text]


def test_prompt_embeddings_are_the_encoders_over_the_text_and_zeros_behind():
    tokenizer, encoder = tiny_tokenizer(), tiny_text_encoder()
    embeds = embed_prompt(tokenizer, encoder, ["a puppet", "a puppet dances in the rain"], 16)
    assert embeds.shape == (2, 16, 16)
    with torch.no_grad():
        alone = encoder(tokenizer("a puppet", return_tensors="pt").input_ids).last_hidden_state
    torch.testing.assert_close(embeds[:1, :3], alone)
    assert embeds[0, 3:].abs().max() == 0
    assert embeds[1, 7:].abs().max() == 0
    assert embed_prompt(tokenizer, encoder, ["rain " * 40], 16).shape == (1, 16, 16)
    spaced = embed_prompt(tokenizer, encoder, ["  a \n puppet "], 16)
    torch.testing.assert_close(spaced, embeds[:1])


def test_clip_sees_the_whole_picture_and_gives_its_last_but_one_layer():
    encoder, layers = tiny_image_encoder(), []
    blocks = [m for name, m in encoder.named_modules() if name.endswith(("layers.0", "layers.1"))]
    for block in blocks:
        block.register_forward_hook(lambda module, args, out: layers.append(out[0] if isinstance(out, tuple) else out))
    wide = torch.full((1, 3, 16, 64), -1.0)
    wide[..., :8] = 1.0
    embeds = embed_picture(encoder, None, wide)
    assert len(layers) == 2
    assert torch.equal(embeds, layers[0])
    assert embeds.shape == (1, 5, 16)
    plain = embed_picture(encoder, None, torch.full((1, 3, 16, 64), -1.0))
    assert not torch.allclose(embeds, plain), "a centre crop would not see the left edge"
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    with torch.no_grad():
        expected = encoder(((0 - mean) / std).view(1, 3, 1, 1).expand(1, 3, 16, 16), output_hidden_states=True)
    torch.testing.assert_close(plain, expected.hidden_states[-2])
