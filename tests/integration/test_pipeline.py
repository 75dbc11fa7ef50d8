"""The pipeline end to end, on tiny random components of the real classes (Wan autoencoder, umT5, CLIP)."""

import copy

import numpy as np
import pytest
import torch
from diffusers import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from tiny import (
    SIZE,
    bare_pipeline,
    bare_transformer,
    footage,
    tiny_pipeline,
    tiny_transformer,
)

from scail2 import conditions as cond
from scail2.errors import InputError
from scail2.pipeline.settings import SamplingSettings
from scail2.segments import SegmentPlan

MODES = ("animation", "replacement")


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def bare():
    return bare_pipeline()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(pipe, frames: int = 9, *, clip=None, seed: int = 0, **options) -> np.ndarray:
    options = {"mode": "animation", "num_inference_steps": 2, "guidance_scale": 1.0} | options
    if pipe.text_encoder is not None and "prompt_embeds" not in options:
        options = {"prompt": "a puppet dances"} | options
    clip = footage(frames) if clip is None else clip
    return pipe(**clip, generator=seeded(seed), output_type="pt", **options).frames[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("frames", "segments"), [(9, 1), (17, 3)])
def test_runs_in_both_modes_with_one_and_three_segments(pipe, mode, frames, segments):
    outputs = list(
        pipe.stream(**footage(frames), mode=mode, prompt="a puppet dances", num_inference_steps=2, generator=seeded())
    )
    assert [output.index for output in outputs] == list(range(segments))
    video = torch.cat([output.frames for output in outputs])
    assert video.shape == (frames, 3, SIZE, SIZE)
    assert video.dtype == torch.float32
    assert video.abs().max() <= 1
    assert video.std() > 0
    for output in outputs:
        assert output.history.shape == (5, 3, SIZE, SIZE)
        shared = min(5, len(output.frames))
        assert torch.equal(output.history[-shared:], output.frames[-shared:]), "history is the end, unrounded"
        assert set(output.timings) == {"conditions", "denoise", "decode"}


def test_the_two_modes_and_every_seed_give_different_videos_and_one_seed_the_same(pipe):
    first = run(pipe)
    assert torch.equal(first, run(pipe))
    assert not torch.equal(first, run(pipe, seed=1))
    assert not torch.equal(first, run(pipe, mode="replacement"))


def test_replacement_never_sees_the_references_background_unless_asked_to(pipe):
    clip = footage(5)
    other = clip | {"image": np.where(clip["reference_mask"][0][..., None], clip["image"], 255 - clip["image"])}
    for changes, same in (
        ({"mode": "replacement"}, True),
        ({"mode": "replacement", "black_out_reference": False}, False),
        ({"mode": "animation"}, False),
    ):
        assert torch.equal(run(pipe, clip=clip, **changes), run(pipe, clip=other, **changes)) == same


@pytest.mark.parametrize("mode", MODES)
def test_two_characters_and_two_additional_references(pipe, mode):
    clip, other = footage(9, characters=2), footage(9, characters=2, seed=1)
    plain = run(pipe, clip=clip, mode=mode)
    more = {
        "additional_references": [other["image"], clip["image"][::-1].copy()],
        "additional_reference_masks": [other["reference_mask"], clip["reference_mask"][:, ::-1].copy()],
    }
    video = run(pipe, clip=clip, mode=mode, **more)
    assert video.shape == (9, 3, SIZE, SIZE)
    assert not torch.equal(video, plain)
    swapped = clip | {"driving_mask": clip["driving_mask"][::-1].copy()}
    assert not torch.equal(run(pipe, clip=swapped, mode=mode), plain), "binding must matter"


def test_as_many_frames_as_the_driving_video_for_every_count_up_to_200():
    pipe = bare_pipeline(transformer=bare_transformer(num_layers=1), segment_frame_length=81)
    clip = footage(200, size=16)
    for frames in range(1, 201):
        cut = clip | {
            "driving_video": clip["driving_video"][:frames],
            "driving_mask": clip["driving_mask"][:, :frames],
        }
        outputs = list(pipe.stream(**cut, mode="replacement", num_inference_steps=1, generator=seeded()))
        assert sum(len(output.frames) for output in outputs) == frames
        assert len(outputs) == len(SegmentPlan.of(frames))


@pytest.mark.parametrize("frames", [1, 2, 5, 12])
def test_frame_counts_with_wans_autoencoder(pipe, frames):
    assert len(run(pipe, frames)) == frames


def test_padding_repeats_the_last_driving_frame(bare):
    short, padded = footage(7), footage(9)
    for name, axis in (("driving_video", 0), ("driving_mask", 1)):
        last = np.take(short[name], [-1, -1], axis=axis)
        padded[name] = np.concatenate([short[name], last], axis=axis)
    assert torch.equal(run(bare, clip=short), run(bare, clip=padded)[:7])


def test_entering_again_at_a_segment_gives_the_same_bits(pipe):
    arguments = {"mode": "replacement", "prompt": "the rain", "num_inference_steps": 2}
    whole = list(pipe.stream(**footage(17), generator=seeded(), **arguments))
    assert len(whole) == 3
    for k in (1, 2):
        generator = torch.Generator()
        generator.set_state(whole[k - 1].next_generator_state)
        assert torch.equal(whole[k].generator_state, whole[k - 1].next_generator_state)
        history = whole[k - 1].history
        again = list(pipe.stream(**footage(17), generator=generator, start_segment=k, history=history, **arguments))
        assert [output.index for output in again] == list(range(k, 3))
        for ours, theirs in zip(again, whole[k:], strict=True):
            assert torch.equal(ours.frames, theirs.frames)
            assert torch.equal(ours.history, theirs.history)


def test_a_guider_with_momentum_starts_anew_with_each_segment(pipe):
    pipe.register_modules(
        guider=AdaptiveProjectedGuidance(guidance_scale=4.0, adaptive_projected_guidance_momentum=-0.5, start=0.4)
    )
    try:
        arguments = footage(13) | {"mode": "animation", "prompt": "the rain", "num_inference_steps": 3}
        whole = list(pipe.stream(**arguments, generator=seeded()))
        generator = torch.Generator()
        generator.set_state(whole[1].generator_state)
        again = next(pipe.stream(**arguments, generator=generator, start_segment=1, history=whole[0].history))
    finally:
        pipe.register_modules(guider=None)
    assert torch.equal(again.frames, whole[1].frames)


def test_stop_segment_ends_early_and_history_transform_reaches_the_next_segment(bare):
    def darken(output):
        return type(output)(**{f: getattr(output, f) for f in output.__slots__} | {"history": output.history * 0 - 1})

    arguments = footage(13) | {"mode": "animation", "num_inference_steps": 2}
    plain = list(bare.stream(**arguments, generator=seeded()))
    assert len(plain) == 2
    first = list(bare.stream(**arguments, generator=seeded(), stop_segment=1))
    assert len(first) == 1
    assert torch.equal(first[0].frames, plain[0].frames)
    dark = list(bare.stream(**arguments, generator=seeded(), history_transform=darken))
    assert torch.equal(dark[0].frames, plain[0].frames)
    assert not torch.equal(dark[1].frames, plain[1].frames)


def test_history_is_clean_before_every_step_and_after_the_last(bare):
    seen = []
    clip = footage(13)
    output = next(iter(bare.stream(**clip, mode="animation", num_inference_steps=2, generator=seeded())))
    expected = cond.encode_video(bare.vae, output.history.transpose(0, 1)[None])
    handle = bare.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["hidden_states"][:, :, :2].clone()), with_kwargs=True
    )
    try:
        list(
            bare.stream(
                **clip,
                mode="animation",
                num_inference_steps=3,
                generator=seeded(),
                start_segment=1,
                history=output.history,
            )
        )
    finally:
        handle.remove()
    assert len(seen) == 3
    for latents in seen:
        assert torch.equal(latents, expected)
    history = cond.SegmentConditions(
        mode="animation",
        reference_latents=torch.zeros(1, 16, 1, 4, 4),
        reference_masks=torch.zeros(1, 28, 1, 4, 4),
        driving_latents=torch.zeros(1, 16, 3, 4, 4),
        driving_masks=torch.zeros(1, 28, 3, 4, 4),
        history_latents=expected,
    )
    settings = SamplingSettings(steps=2, guidance_scale=1.0, solver="euler", shift=3.0)
    last = bare.denoise(torch.randn(1, 16, 3, 4, 4), history, settings)
    assert last.completed
    assert torch.equal(last.latents[:, :, :2], expected)


def test_interrupting_drops_the_unfinished_segment_only(bare):
    def stop_in_second(pipe, step, timestep, tensors):
        calls.append(step)
        pipe.interrupt = len(calls) == 3

    calls = []
    whole = list(bare.stream(**footage(17), mode="animation", num_inference_steps=2, generator=seeded()))
    result = bare(
        **footage(17),
        mode="animation",
        num_inference_steps=2,
        generator=seeded(),
        callback_on_step_end=stop_in_second,
        output_type="pt",
    )
    assert calls == [0, 1, 0]
    assert not result.completed
    assert torch.allclose(result.frames[0] * 2 - 1, whole[0].frames, atol=1e-6)
    assert bare(**footage(9), mode="animation", num_inference_steps=1).completed, "the next run starts clean"


def test_an_error_in_a_callback_comes_through_and_a_closed_stream_stops(bare):
    def fail(pipe, step, timestep, tensors):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(bare, callback_on_step_end=fail)
    stream = bare.stream(**footage(17), mode="animation", num_inference_steps=1, generator=seeded())
    next(stream)
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


def test_callbacks_see_and_change_tensors(pipe):
    steps = []

    def zero(pipe, step, timestep, tensors):
        steps.append((step, float(timestep), sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    names = ("latents", "prompt_embeds")
    zeroed = run(pipe, callback_on_step_end=zero, callback_on_step_end_tensor_inputs=names)
    assert [step for step, _, _ in steps] == [0, 1]
    assert steps[0][1] > steps[1][1] > 0
    assert steps[0][2] == ["latents", "prompt_embeds"]
    other = run(pipe, seed=1, callback_on_step_end=zero, callback_on_step_end_tensor_inputs=names)
    assert torch.equal(zeroed, other), "after zeroing the latents nothing of the seed is left"


@pytest.mark.parametrize(
    ("given_back", "told"),
    [
        (lambda tensors: tensors["latents"], "returned Tensor; it returns None or a dictionary"),
        (lambda tensors: {"latent": tensors["latents"]}, "returned latent; it may return latents, prompt_embeds"),
        (lambda tensors: {"latents": tensors["latents"][:, :, 1:]}, r"returned latents as the shape \(1, "),
        (lambda tensors: {"latents": None}, "returned latents as NoneType; it must be a tensor of the shape"),
        (lambda tensors: {"prompt_embeds": tensors["latents"]}, "returned prompt_embeds, which this model has none of"),
    ],
)
def test_what_a_callback_gives_back_by_mistake_is_one_sentence(bare, given_back, told):
    with pytest.raises(InputError, match=told) as refused:
        run(bare, callback_on_step_end=lambda pipe, step, timestep, tensors: given_back(tensors))
    assert str(refused.value).count("\n") == 0


def test_a_callback_may_give_nothing_back_and_tensors_of_another_type(bare):
    plain = run(bare)
    for given_back in (
        lambda tensors: None,
        lambda tensors: {},
        lambda tensors: {"latents": tensors["latents"].double()},
    ):
        same = run(bare, callback_on_step_end=lambda pipe, step, timestep, tensors, give=given_back: give(tensors))
        assert torch.equal(same, plain)

    def unguide(pipe, step, timestep, tensors):
        pipe._guidance_scale = "none"

    with pytest.raises(InputError, match="set the guidance scale to 'none'; it must be a number"):
        run(bare, callback_on_step_end=unguide)


def test_a_negative_prompt_without_guidance_is_told(pipe, caplog):
    run(pipe, negative_prompt="rain", guidance_scale=1.0)
    assert "negative_prompt is not used: nothing is guided" in caplog.text
    caplog.clear()
    run(pipe, negative_prompt="rain", guidance_scale=2.0)
    run(pipe, negative_prompt="", guidance_scale=1.0)
    assert "not used" not in caplog.text


def test_precomputed_embeddings_give_the_same_video_as_the_encoders(pipe):
    clip = footage(5)
    prompt = pipe.encode_prompt("a puppet dances", "rain", with_negative=True)
    reference = pipe.encode_reference(
        *(
            torch.from_numpy(clip["image"]).permute(2, 0, 1)[None] / 127.5 - 1,
            torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8),
        ),
        mode="animation",
    )
    without = tiny_pipeline(text_encoder=None, tokenizer=None, image_encoder=None)
    embeds = {
        "prompt_embeds": prompt.prompt_embeds,
        "negative_prompt_embeds": prompt.negative_prompt_embeds,
        "image_embeds": reference.image_embeds,
    }
    given = run(without, clip=clip, guidance_scale=3.0, **embeds)
    made = run(pipe, clip=clip, guidance_scale=3.0, prompt="a puppet dances", negative_prompt="rain")
    assert torch.allclose(given, made, atol=1e-6)
    short = embeds | {"prompt_embeds": prompt.prompt_embeds[:, :4]}
    assert torch.equal(run(without, clip=clip, guidance_scale=3.0, **short), given), "shorter texts are zero padded"


def test_text_is_zero_behind_the_last_token_and_exactly_512_long(pipe):
    embeds = pipe.encode_prompt("a puppet").prompt_embeds
    assert embeds.shape == (1, 512, 16)
    assert embeds[:, :3].abs().amin(dim=2).min() > 0
    assert embeds[:, 3:].abs().max() == 0


def test_guidance_runs_one_pass_per_entry_and_leaves_the_component_alone(pipe):
    def count(**changes) -> int:
        passes = []
        handle = pipe.transformer.register_forward_pre_hook(lambda *_: passes.append(1))
        try:
            run(pipe, 5, num_inference_steps=3, **changes)
        finally:
            handle.remove()
        return len(passes)

    assert count() == 3
    assert count(guidance_scale=4.0) == 6
    guider = ClassifierFreeGuidance(guidance_scale=4.0, stop=0.5)
    before = copy.deepcopy(guider.get_state())
    pipe.register_modules(guider=guider)
    try:
        assert count(guidance_scale=None) == 4, "the guider stops after the first of three steps"
        assert count(guidance_scale=1.0) == 3, "a scale that is named wins over the component's"
        assert guider.get_state() == before
        pipe.register_modules(
            guider=AdaptiveProjectedGuidance(guidance_scale=4.0, adaptive_projected_guidance_momentum=-0.5)
        )
        projected = run(pipe, 5, guidance_scale=None)
        assert torch.equal(projected, run(pipe, 5, guidance_scale=None)), "momentum must not outlive a run"
    finally:
        pipe.register_modules(guider=None)
    assert not torch.equal(projected, run(pipe, 5, guidance_scale=4.0))


def test_guidance_is_the_formula(pipe):
    """One Euler step from noise: x = noise - sigma * (u + s (c - u)), so guided results are linear in s."""
    latents = {}

    def keep(pipe, step, timestep, tensors):
        latents[scale] = tensors["latents"].clone()

    for scale in (1.0, 0.0, 3.0):
        run(pipe, 5, guidance_scale=scale, solver="euler", num_inference_steps=1, callback_on_step_end=keep)
    expected = latents[0.0] + 3.0 * (latents[1.0] - latents[0.0])
    assert not torch.allclose(latents[0.0], latents[1.0], atol=1e-4)
    torch.testing.assert_close(latents[3.0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("solver", ["unipc", "dpm++", "euler"])
@pytest.mark.parametrize("steps", [1, 4])
def test_every_solver(bare, solver, steps):
    video = run(bare, solver=solver, shift=2.0, num_inference_steps=steps)
    assert torch.isfinite(video).all()


def test_nothing_outside_changes(pipe):
    weights = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    config, scheduler = dict(pipe.config), copy.deepcopy(pipe.scheduler.__dict__)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    run(pipe, 13, guidance_scale=2.0)
    pipe(**footage(5), mode="animation", prompt="a", num_inference_steps=1)  # without a generator
    assert torch.equal(torch.rand(3), expected), "the global generator must not be drawn from"
    assert dict(pipe.config) == config
    assert str(pipe.scheduler.__dict__) == str(scheduler)
    for name, value in pipe.transformer.state_dict().items():
        assert torch.equal(value, weights[name])
    assert torch.is_grad_enabled()


class Recorded:
    """A frame source that notes the windows read from it."""

    def __init__(self, frames: np.ndarray):
        self.array, self.windows = frames, []

    def __len__(self) -> int:
        return len(self.array)

    def frames(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start < stop <= len(self.array)
        self.windows.append((start, stop))
        return self.array[start:stop]


def test_driving_frames_are_read_one_segment_at_a_time_and_one_ahead(bare):
    clip = footage(17)
    source = Recorded(clip["driving_video"])
    stream = bare.stream(
        **clip | {"driving_video": source}, mode="animation", num_inference_steps=1, height=32, width=32
    )
    next(stream)
    assert source.windows == [(0, 9), (4, 13)]
    list(stream)
    assert source.windows == [(0, 9), (4, 13), (8, 17)]


def test_sizes_other_than_the_videos_are_covered_and_cropped(bare):
    clip = footage(5, size=40)
    assert run(bare, clip=clip, height=32, width=48).shape == (5, 3, 32, 48)


@pytest.mark.parametrize(
    ("output_type", "check"),
    [
        ("np", lambda f: f.shape == (1, 5, 32, 32, 3) and 0 <= f.min() <= f.max() <= 1),
        ("pt", lambda f: f.shape == (1, 5, 3, 32, 32)),
        ("uint8", lambda f: f.shape == (1, 5, 32, 32, 3) and f.dtype == np.uint8),
        ("pil", lambda f: len(f) == 1 and len(f[0]) == 5 and f[0][0].size == (32, 32)),
    ],
)
def test_output_types(bare, output_type, check):
    result = bare(**footage(5), mode="animation", num_inference_steps=1, output_type=output_type)
    assert check(result.frames)
    assert bare(**footage(1), mode="animation", num_inference_steps=1, return_dict=False)[0].shape == (1, 1, 32, 32, 3)


def test_bfloat16_weights(bare):
    half = bare_pipeline(transformer=bare_transformer().to(torch.bfloat16))
    assert torch.allclose(run(half), run(bare), atol=0.1)


def test_a_segment_of_a_model_without_encoders_equals_the_stages_called_by_hand(bare):
    clip = footage(9)
    expected = next(bare.stream(**clip, mode="animation", num_inference_steps=2, generator=seeded()))
    mask = np.full((SIZE, SIZE, 3), 255, np.uint8)
    mask[clip["reference_mask"][0]] = (0, 0, 255)
    drive = np.zeros((9, SIZE, SIZE, 3), np.uint8)
    drive[clip["driving_mask"][0]] = (0, 0, 255)
    image = torch.from_numpy(clip["image"]).permute(2, 0, 1)[None] / 127.5 - 1
    video = torch.from_numpy(clip["driving_video"]).permute(3, 0, 1, 2)[None] / 127.5 - 1
    reference = bare.encode_reference(image, torch.from_numpy(mask)[None], mode="animation")
    driving = bare.encode_driving(video, torch.from_numpy(drive)[None])
    conditions = cond.assemble(mode="animation", reference=reference.conditions, driving=driving)
    noise = bare.prepare_latents(conditions, seeded())
    assert torch.equal(noise.latents, torch.randn(conditions.latent_shape, generator=seeded()))
    assert torch.equal(noise.generator_state, seeded().get_state())
    settings = SamplingSettings(steps=2, guidance_scale=1.0, solver=None, shift=None)
    frames = bare.decode(bare.denoise(noise.latents, conditions, settings).latents).frames
    torch.testing.assert_close(frames[0].transpose(0, 1), expected.frames, atol=1e-6, rtol=0)


REFUSALS = {
    "size": ({"height": 40, "width": 32}, "multiple of"),
    "mode": ({"mode": "dance"}, "animation"),
    "no reference mask": ({"reference_mask": None}, "reference_mask is missing"),
    "no driving mask": ({"driving_mask": None}, "driving_mask is missing"),
    "no driving video": ({"driving_video": None}, "driving_video is missing"),
    "mask length": ({"driving_mask": np.zeros((1, 5, 32, 32), bool)}, "5 frames"),
    "no character": ({"driving_mask": np.zeros((1, 9, 32, 32), bool)}, "no character"),
    "seven characters": ({"reference_mask": np.eye(32, dtype=bool)[:7, None].repeat(32, 1)}, "at most 6"),
    "seven driving characters": ({"driving_mask": np.zeros((7, 9, 32, 32), bool)}, "at most 6"),
    "image": ({"image": np.zeros((32, 32), np.float64)}, "image must be"),
    "segment length": ({"segment_frame_length": 10}, "4n"),
    "overlap": ({"prev_segment_conditioning_frames": 4}, "4n"),
    "steps": ({"num_inference_steps": 0}, "num_inference_steps"),
    "shift": ({"shift": float("nan")}, "shift"),
    "solver": ({"solver": "heun"}, "unknown solver"),
    "preset": ({"preset": "best"}, "unknown preset"),
    "guidance without text": ({"guidance_scale": 5.0}, "guidance_scale=1.0"),
    "prompt without text": ({"prompt": "a puppet"}, "no text"),
    "image embeds without CLIP": ({"image_embeds": torch.zeros(1, 257, 1280)}, "image_embeds"),
    "start": ({"start_segment": 1}, "plan has 1"),
    "history at the start": ({"history": torch.zeros(5, 3, 32, 32)}, "history"),
    "additional mask": ({"additional_references": [np.zeros((32, 32, 3), np.uint8)]}, "one mask per picture"),
    "callback tensors": ({"callback_on_step_end_tensor_inputs": ("noise",)}, "noise"),
    "output type": ({"output_type": "latent"}, "output_type"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses_with_one_sentence(bare, case):
    changes, message = REFUSALS[case]
    with pytest.raises(InputError, match=message):
        bare(**footage(9) | {"mode": "animation", "num_inference_steps": 1} | changes)


def test_unknown_keywords_are_type_errors_and_known_ones_are_in_the_signature(bare):
    import inspect

    with pytest.raises(TypeError, match="guidence_scale"):
        bare(**footage(9), mode="animation", guidence_scale=1.0)
    for method in (bare.stream, type(bare).__call__):
        assert {"mode", "height", "generator", "num_inference_steps"} <= set(inspect.signature(method).parameters)


def test_later_segments_need_history(bare):
    arguments = footage(17) | {"mode": "animation", "num_inference_steps": 1}
    with pytest.raises(InputError, match="needs history"):
        list(bare.stream(**arguments, start_segment=1))
    with pytest.raises(InputError, match="needs history"):
        list(bare.stream(**arguments, start_segment=1, history=torch.zeros(4, 3, 32, 32)))


def test_a_mask_that_contradicts_the_mode_is_refused_unless_allowed(bare, caplog):
    clip = footage(9)
    painted = np.full((9, 32, 32, 3), 255, np.uint8)
    painted[clip["driving_mask"][0]] = (0, 0, 255)
    clip["driving_mask"] = painted
    with pytest.raises(InputError, match=r"driving mask has a white background.*allow_mask_mismatch"):
        run(bare, clip=clip)
    assert len(run(bare, clip=clip, allow_mask_mismatch=True)) == 9
    assert "white background" in caplog.text
    clip["reference_mask"] = np.where(clip["reference_mask"][0][..., None], [0, 0, 255], [0, 0, 0]).astype(np.uint8)
    assert len(run(bare, clip=clip, mode="replacement")) == 9


def test_a_few_step_preset_without_its_adapters_warns(bare, caplog):
    run(bare, preset="fast")
    assert "SCAIL-2 Bias-Aware DPO at 1.0, then lightx2v" in caplog.text
    caplog.clear()
    run(bare, preset="nano")
    assert not caplog.text


def test_embeddings_are_asked_for_when_encoders_are_missing():
    pipe = tiny_pipeline(text_encoder=None, tokenizer=None, transformer=tiny_transformer(image_dim=None))
    with pytest.raises(InputError, match="prompt_embeds"):
        run(pipe, prompt="a puppet")
    with pytest.raises(InputError, match="either prompt or prompt_embeds"):
        run(pipe, prompt=None)
    with pytest.raises(InputError, match="negative_prompt"):
        run(pipe, prompt_embeds=torch.zeros(1, 3, 16), guidance_scale=2.0)
    with pytest.raises(InputError, match="shape"):
        run(pipe, prompt_embeds=torch.zeros(1, 600, 16))
    pipe = tiny_pipeline(image_encoder=None)
    with pytest.raises(InputError, match="image_embeds"):
        run(pipe)
