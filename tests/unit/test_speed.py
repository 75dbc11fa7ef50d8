"""Attention kernels, compilation and step caches: what they change, and what refuses them."""

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from run_material import make_request, save_model
from tiny import bare_pipeline, footage

from scail2 import load_pipeline
from scail2.errors import InputError
from scail2.loading.speed import set_attention, speed_up
from scail2.request.placement import Placement, PlacementKind
from scail2.request.speed import AttentionKernel, Speed, StepCache
from scail2.runs import RunDirectory
from scail2.runs.segment_store import SegmentStore

CPU, RESIDENT = torch.device("cpu"), Placement(kind=PlacementKind.RESIDENT)


def frames(pipe, steps=2):
    generator = torch.Generator().manual_seed(0)
    made = pipe(**footage(5), mode="animation", num_inference_steps=steps, generator=generator, output_type="pt")
    return made.frames


def test_an_attention_kernel_is_set_for_one_pipeline_and_nothing_else():
    default = _AttentionBackendRegistry.get_active_backend()
    pipe, other = bare_pipeline(), bare_pipeline()
    speed_up(pipe.transformer, CPU, Speed(attention=AttentionKernel.SDPA), RESIDENT)
    kernels = {each.attn1.processor._attention_backend for each in pipe.transformer.blocks}
    assert {str(each.value) for each in kernels} == {"native"}
    assert {each.attn1.processor._attention_backend for each in other.transformer.blocks} == {None}
    assert _AttentionBackendRegistry.get_active_backend() == default
    assert torch.equal(frames(pipe), frames(other))


@pytest.mark.parametrize("kernel", ["flash", "flash3", "sage", "cudnn"])
def test_kernels_that_are_not_here_are_refused_in_one_sentence(kernel):
    pipe = bare_pipeline()
    with pytest.raises(InputError, match=f"Attention {kernel} needs an NVIDIA GPU; on cpu use --attention sdpa"):
        speed_up(pipe.transformer, CPU, Speed(attention=AttentionKernel(kernel)), RESIDENT)
    if kernel != "cudnn":
        with pytest.raises(InputError, match=f"Attention {kernel} needs .*, which is not here"):
            set_attention(pipe.transformer, torch.device("cuda"), AttentionKernel(kernel))


def test_choices_that_exclude_each_other_are_refused(monkeypatch):
    transformer = bare_pipeline().transformer
    with pytest.raises(InputError, match="--compile needs weights that stay: --placement block-offload moves them"):
        speed_up(transformer, CPU, Speed(compile=True), Placement(kind=PlacementKind.BLOCK_OFFLOAD))
    with pytest.raises(InputError, match="--compile and --cache first-block exclude each other"):
        speed_up(transformer, CPU, Speed(compile=True, cache=StepCache.FIRST_BLOCK), RESIDENT)
    monkeypatch.setenv("CXX", "no-such-compiler")
    fresh = bare_pipeline().transformer
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler on a CPU: no-such-compiler is not here"):
        speed_up(fresh, CPU, Speed(compile=True), RESIDENT)


@pytest.mark.parametrize("cache", [StepCache.FIRST_BLOCK, StepCache.TAYLORSEER])
def test_step_caches_skip_blocks_and_forget_between_segments(cache, monkeypatch):
    monkeypatch.setattr("scail2.loading.speed.FIRST_BLOCK_THRESHOLD", 10.0)  # skips whatever it may
    counts, films = {}, {}
    for each in (StepCache.OFF, cache):
        pipe = bare_pipeline()
        speed_up(pipe.transformer, CPU, Speed(cache=each), RESIDENT)
        calls = []
        feed_forward = pipe.transformer.blocks[1].ffn.net[2] if cache is StepCache.FIRST_BLOCK else None
        attention = pipe.transformer.blocks[1].attn1.to_q
        (feed_forward or attention).register_forward_hook(lambda *_, calls=calls: calls.append(1))
        films[each] = [frames(pipe, 8), frames(pipe, 8)]
        counts[each] = len(calls)
    assert 0 < counts[cache] < counts[StepCache.OFF]
    assert torch.equal(*films[cache])
    assert not torch.equal(films[cache][0], films[StepCache.OFF][0])


def test_what_is_not_exact_makes_segments_of_its_own(tmp_path):
    request = make_request(tmp_path, frames=5, model=str(save_model(tmp_path / "model")), device="cpu")
    keys = {}
    for name, changes in {
        "exact": {},
        "sdpa": {"attention": "sdpa"},
        "cached": {"cache": "taylorseer"},
        "small": {"weights": "fp8"},
        "offloaded": {"placement": "block-offload"},
    }.items():
        run = RunDirectory.create(tmp_path / "film.run", request.with_changes(**changes))
        run.execute()
        keys[name] = SegmentStore(run.path).record(0).key
    assert keys["exact"] == keys["sdpa"] == keys["offloaded"]
    assert len({keys["exact"], keys["cached"], keys["small"]}) == 3


def test_a_pipeline_takes_speed_when_it_is_loaded(tmp_path):
    folder = save_model(tmp_path / "model")
    pipe = load_pipeline(folder, device="cpu", speed=Speed(cache=StepCache.FIRST_BLOCK))
    assert pipe.transformer.is_cache_enabled
    with pytest.raises(InputError, match="Attention sage needs an NVIDIA GPU"):
        load_pipeline(folder, device="cpu", speed=Speed(attention=AttentionKernel.SAGE))
