"""Passes that overwrite, trim and remember, against the same blocks called one by one, by value."""

import pytest
import torch
from diffusers import ClassifierFreeGuidance, FirstBlockCacheConfig
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from tiny import bare_transformer, footage, forward_inputs, tiny_pipeline, tiny_transformer

from scail2.models import transformer as network
from scail2.models.memory import SegmentMemory

CLOSE = {"atol": 1e-6, "rtol": 1e-6}


def given(model, *, additional: int = 0, history: int = 0, **changes) -> dict:
    """Inputs of one pass, with additional references and clean history frames."""
    inputs = forward_inputs(model, **changes)
    if additional:
        latents, masks = inputs["reference_latents"], inputs["reference_masks"]
        inputs["additional_reference_latents"] = torch.cat([latents.flip(-1)] * additional, dim=2)
        inputs["additional_reference_masks"] = torch.cat([masks.flip(-1)] * additional, dim=2)
    if history:
        mask = torch.zeros_like(inputs["hidden_states"][:, :1])
        mask[:, :, :history] = 1
        inputs["history_mask"] = mask
    return inputs


@torch.no_grad()
def run(model, inputs: dict, memory: SegmentMemory | None = None, **changes) -> torch.Tensor:
    return model(**inputs | changes, memory=memory).sample


@torch.no_grad()
def called(model, inputs: dict, **changes) -> torch.Tensor:
    """The pass with every block called, which a hook on a block makes sure of."""
    heard = []
    hook = model.blocks[-1].register_forward_hook(lambda block, args, output: heard.append(output.shape[1]))
    try:
        result = model(**inputs | changes).sample
    finally:
        hook.remove()
    video = inputs["hidden_states"][0, 0].numel() // 4
    assert len(heard) == 1
    assert heard[0] > video, "the hook sees every token, not the video's only"
    return result


def count_calls(module: torch.nn.Module) -> list[int]:
    """Rows of every input of a linear layer, counted without a hook, which would turn off what is tested."""
    rows, weight = [], module.weight

    class Counted(torch.nn.Parameter):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is torch.nn.functional.linear:
                rows.append(args[0].shape[1])
            return super().__torch_function__(function, types, args, kwargs or {})

    module.weight = Counted(weight.data, requires_grad=False)
    return rows


@pytest.mark.parametrize("mode", ["animation", "replacement"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("build", [tiny_transformer, bare_transformer])
@pytest.mark.parametrize(("additional", "history"), [(0, 0), (2, 0), (0, 1), (1, 2)])
def test_equals_calling_every_block(mode, batch, build, additional, history):
    model = build()
    inputs = given(model, batch=batch, additional=additional, history=history) | {"mode": mode}
    memory = SegmentMemory(shares_steps=True)
    for step in (900.0, 900.0, 400.0):
        changes = {"timestep": torch.full((batch,), step), "hidden_states": inputs["hidden_states"] * step / 900}
        expected = called(model, inputs, **changes)
        torch.testing.assert_close(run(model, inputs, **changes), expected, **CLOSE)
        torch.testing.assert_close(run(model, inputs, memory, **changes), expected, **CLOSE)


def test_samples_of_a_batch_at_their_own_timesteps():
    model = tiny_transformer()
    inputs = given(model, batch=2) | {"timestep": torch.tensor([900.0, 100.0])}
    torch.testing.assert_close(run(model, inputs, SegmentMemory()), called(model, inputs), **CLOSE)


def test_half_precision_equals_calling_every_block():
    model = tiny_transformer()
    for name, parameter in model.named_parameters():
        if not set(model._keep_in_fp32_modules) & set(name.split(".")):
            parameter.data = parameter.data.bfloat16()
    inputs = given(model)
    memory = SegmentMemory()
    expected = called(model, inputs)
    for _ in range(2):
        torch.testing.assert_close(run(model, inputs, memory), expected, atol=0.02, rtol=0)


def test_inputs_are_left_as_they_were():
    model = tiny_transformer()
    inputs = given(model, additional=1, history=1)
    before = {name: value.clone() for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    memory = SegmentMemory(shares_steps=True)
    first = run(model, inputs, memory)
    assert torch.equal(run(model, inputs, memory), first)
    assert all(torch.equal(inputs[name], value) for name, value in before.items())


def test_the_last_block_computes_the_video_only_and_the_context_is_projected_once():
    model = tiny_transformer()
    inputs = given(model)
    first, last = (count_calls(block.ffn.net[2]) for block in (model.blocks[0], model.blocks[-1]))
    keys, queries = count_calls(model.blocks[0].attn2.to_k), count_calls(model.blocks[0].attn1.to_q)
    memory = SegmentMemory(shares_steps=True)
    for _ in range(3):
        run(model, inputs, memory)
    assert (first, last) == ([19] * 3, [12] * 3), "4 reference, 12 video and 3 driving tokens"
    assert keys == [model.config.text_length]
    assert queries == [19], "all three passes are of one step"
    run(model, inputs, memory, timestep=torch.tensor([10.0]))
    assert (len(keys), len(queries)) == (1, 2)


@pytest.mark.parametrize(
    "name",
    [
        "encoder_hidden_states",
        "encoder_hidden_states_image",
        "reference_latents",
        "reference_masks",
        "driving_latents",
        "driving_masks",
        "additional_reference_latents",
        "hidden_states",
        "history_mask",
        "timestep",
    ],
)
def test_other_inputs_are_noticed_even_where_written_in_place(name):
    model = tiny_transformer()
    inputs = given(model, additional=1, history=1)
    memory = SegmentMemory(shares_steps=True)
    before = run(model, inputs, memory)
    inputs[name].mul_(0.5)
    after = run(model, inputs, memory)
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, called(model, inputs), **CLOSE)


@pytest.mark.parametrize("changes", [{"mode": "animation"}, {"frame_offset": 3}])
def test_other_positions_are_noticed(changes):
    model = tiny_transformer()
    inputs, memory = given(model), SegmentMemory(shares_steps=True)
    before = run(model, inputs, memory)
    after = run(model, inputs, memory, **changes)
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, called(model, inputs, **changes), **CLOSE)


@pytest.mark.parametrize("batch", [1, 2])
def test_another_batch_and_size(batch):
    model, memory = tiny_transformer(), SegmentMemory(shares_steps=True)
    run(model, given(model, batch=3 - batch), memory)
    for inputs in (given(model, batch=batch), given(model, batch=batch, frames=2, grid=8)):
        torch.testing.assert_close(run(model, inputs, memory), called(model, inputs), **CLOSE)


def _write(model):
    with torch.no_grad():
        model.blocks[0].attn2.to_v.weight.mul_(1.5)


def _replace(model):
    weight = model.blocks[1].attn2.add_k_proj.weight
    weight.data = weight.data * 1.5


def _load(model):
    model.load_state_dict({name: 1.1 * value for name, value in model.state_dict().items()})


def _half(model):
    model.half().float()


@pytest.mark.parametrize("change", [_write, _replace, _load, _half])
def test_changed_weights_are_noticed(change):
    model = tiny_transformer()
    inputs, memory = given(model), SegmentMemory(shares_steps=True)
    before = run(model, inputs, memory)
    change(model)
    after = run(model, inputs, memory)
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, called(model, inputs), **CLOSE)


def test_adapters_are_noticed_whatever_is_done_to_them():
    pipe = tiny_pipeline()
    model = pipe.transformer
    inputs, memory = given(model), SegmentMemory(shares_steps=True)
    rng = torch.Generator().manual_seed(0)
    state = {}
    for layer in ("self_attn.q", "cross_attn.k", "cross_attn.v_img"):
        name = f"diffusion_model.blocks.0.{layer}"
        state[f"{name}.lora_down.weight"] = torch.randn(2, 24, generator=rng)
        state[f"{name}.lora_up.weight"] = torch.randn(24, 2, generator=rng)

    def check(**changes) -> torch.Tensor:
        after = run(model, inputs, memory, **changes)
        torch.testing.assert_close(after, called(model, inputs, **changes), **CLOSE)
        return after

    seen = [check()]
    pipe.load_lora_weights(state, adapter_name="one")
    seen.append(check())
    seen.append(check(attention_kwargs={"scale": 0.5}))
    pipe.set_adapters("one", 0.25)
    seen.append(check())
    pipe.fuse_lora(lora_scale=3.0)
    seen.append(check())
    pipe.unfuse_lora()
    pipe.disable_lora()
    assert torch.allclose(check(), seen[0], atol=1e-5)
    assert all(not torch.allclose(a, b, atol=1e-4) for i, a in enumerate(seen) for b in seen[:i])


def test_gradients_and_other_processors_take_the_plain_way():
    model = tiny_transformer()
    inputs, memory = given(model), SegmentMemory()
    expected = called(model, inputs)
    with torch.enable_grad():
        output = model(**inputs, memory=memory).sample
        output.sum().backward()
    torch.testing.assert_close(output.detach(), expected, atol=1e-5, rtol=0)
    assert all(parameter.grad is not None for parameter in model.blocks.parameters())
    model = bare_transformer()
    model.blocks[0].attn1.set_processor(WanAttnProcessor())
    inputs = given(model)
    assert torch.equal(run(model, inputs, SegmentMemory()), called(model, inputs))


def test_after_a_step_cache_passes_are_quick_again():
    model = tiny_transformer()
    inputs = given(model)
    model.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    rows = count_calls(model.blocks[-1].ffn.net[2])
    with model.cache_context("cond"):
        run(model, inputs, SegmentMemory())
    model.disable_cache()
    run(model, inputs, SegmentMemory())
    assert rows == [19, 12]


def test_long_sequences_keep_no_keys_and_values():
    """At 14B size they would take more memory than they save time."""
    model = tiny_transformer(text_length=1, image_dim=None)
    model_inputs = given(model)
    keys = count_calls(model.blocks[0].attn2.to_k)
    memory = SegmentMemory()
    for _ in range(2):
        run(model, model_inputs, memory)
    assert keys == [1, 1], "19 tokens are more than 16 times 1"


def pipeline_frames(pipe, **changes) -> torch.Tensor:
    arguments = {"mode": "animation", "prompt": "a puppet", "num_inference_steps": 3, "output_type": "pt"}
    generator = torch.Generator().manual_seed(0)
    return pipe(**footage(13), **(arguments | changes), generator=generator).frames


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_pipeline_gives_what_called_blocks_give(scale):
    pipe = tiny_pipeline()
    quick = pipeline_frames(pipe, guidance_scale=scale)
    hook = pipe.transformer.blocks[0].register_forward_hook(lambda *_: None)
    plain = pipeline_frames(pipe, guidance_scale=scale)
    hook.remove()
    torch.testing.assert_close(quick, plain, atol=1e-5, rtol=0)
    assert torch.equal(pipeline_frames(pipe, guidance_scale=scale), quick)


def test_guided_passes_share_the_first_self_attention_of_a_step():
    pipe = tiny_pipeline(guider=ClassifierFreeGuidance(guidance_scale=4.0))
    queries = count_calls(pipe.transformer.blocks[0].attn1.to_q)
    later = count_calls(pipe.transformer.blocks[1].attn1.to_q)
    pipeline_frames(pipe)
    assert (len(queries), len(later)) == (6, 12), "two segments of three steps of two passes"


def test_a_callback_may_change_prompt_and_weights():
    def change(pipe, step, timestep, values):
        if step == 0:
            values["prompt_embeds"] = values["prompt_embeds"] * 3
            with torch.no_grad():
                pipe.transformer.blocks[0].attn2.to_k.weight.mul_(2)
        return values

    def frames(listens: bool) -> torch.Tensor:
        pipe = tiny_pipeline()
        if listens:
            pipe.transformer.blocks[0].register_forward_hook(lambda *_: None)
        names = ["latents", "prompt_embeds"]
        return pipeline_frames(pipe, callback_on_step_end=change, callback_on_step_end_tensor_inputs=names)

    torch.testing.assert_close(frames(False), frames(True), atol=1e-5, rtol=0)


def test_nothing_is_left_in_the_network():
    pipe = tiny_pipeline()

    def attributes() -> dict[str, set[str]]:
        # Of the network itself, diffusers keeps a register of contexts.
        return {name: set(vars(module)) - {"_diffusers_hook"} for name, module in pipe.transformer.named_modules()}

    before = attributes()
    pipeline_frames(pipe, guidance_scale=4.0)
    assert attributes() == before
    assert not [name for name, value in vars(network).items() if isinstance(value, SegmentMemory)]
