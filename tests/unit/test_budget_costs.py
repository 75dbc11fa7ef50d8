"""Closed forms of operations and bytes against what the kernels really do and what really lives, on tensors without numbers."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from fake_costs import Costs, costs_of
from torch._subclasses import FakeTensorMode
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from scail2.budget import autoencoders, memory
from scail2.budget.measuring import pass_inputs, small_network
from scail2.budget.operations import (
    PassKind,
    SequenceShape,
    image_encoding,
    segment_denoising,
    text_encoding,
    transformer_pass,
    video_decoding,
    video_encoding,
)
from scail2.budget.shapes import (
    AutoencoderShape,
    ImageEncoderShape,
    TextEncoderShape,
    TransformerShape,
    Weights,
    parameter_shapes,
)
from scail2.loading.speed import speed_up
from scail2.models import autoencoder
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.models.memory import SegmentMemory
from scail2.models.streamed_autoencoder import stream_autoencoder
from scail2.request.placement import Placement, PlacementKind, WeightStorage
from scail2.request.speed import Magnitudes, Speed, StepCache, attending_steps

# The embedded model, and the 14B with three of its blocks: their sum is what grows with the number of blocks.
EMBEDDED = TransformerShape(
    num_attention_heads=8, attention_head_dim=64, in_channels=68, out_channels=64, ffn_dim=1536, num_layers=6,
    text_dim=None, image_dim=None, driving_downsample=1,
)  # fmt: skip
LARGE = TransformerShape(num_layers=3)
PATCHES = AutoencoderShape(base_dim=None, z_dim=64)
CPU = torch.device("cpu")
HALF, WHOLE = torch.bfloat16, torch.float32
CASES = [
    (EMBEDDED, (128, 128), 17, HALF),
    (EMBEDDED, (64, 128), 17, HALF),
    (EMBEDDED, (128, 128), 5, WHOLE),
    (LARGE, (512, 896), 81, HALF),
    (LARGE, (704, 1280), 81, HALF),
    (LARGE, (480, 832), 49, WHOLE),
]


def sequence_of(shape: TransformerShape, size, frames) -> SequenceShape:
    return SequenceShape.of(shape, PATCHES if shape is EMBEDDED else AutoencoderShape(), size, frames)


@pytest.mark.parametrize(("shape", "size", "frames", "dtype"), CASES)
def test_a_pass_costs_what_the_forms_say(shape, size, frames, dtype):
    with FakeTensorMode():
        network, inputs = small_network(shape, dtype, CPU), pass_inputs(shape, size, frames, CPU)
        found = costs_of(lambda: network(**inputs))
    sequence = sequence_of(shape, size, frames)
    first = transformer_pass(shape, sequence, PassKind(first=True, first_of_segment=True))
    assert found.operations["matmul"] == pytest.approx(first.matmul, rel=1e-6)
    assert found.operations["attention"] == pytest.approx(first.attention, rel=1e-6)
    assert found.operations["convolution"] == pytest.approx(first.convolution, rel=1e-6)
    peak = memory.pass_peak(shape, sequence, dtype.itemsize, on_cpu=True)
    assert peak == pytest.approx(found.peak, rel=0.05)


@pytest.mark.parametrize(("shape", "size", "frames", "dtype"), [CASES[0], CASES[2], CASES[3], CASES[5]])
def test_a_pass_under_hooks_costs_what_the_forms_say(shape, size, frames, dtype):
    """As offloading has it: every block is called as it is."""
    with FakeTensorMode():
        network, inputs = small_network(shape, dtype, CPU), pass_inputs(shape, size, frames, CPU)
        network.blocks[0].register_forward_hook(lambda *_: None)
        found = costs_of(lambda: network(**inputs))
    sequence = sequence_of(shape, size, frames)
    whole = transformer_pass(shape, sequence, PassKind(direct=False))
    assert sum(found.operations.values()) == pytest.approx(whole.total, rel=1e-6)
    peak = memory.pass_peak(shape, sequence, dtype.itemsize, on_cpu=True, direct=False)
    assert peak == pytest.approx(found.peak, rel=0.05)


def test_the_whole_14b_is_the_number_that_others_counted():
    """3.155e15 a pass at 512x896x81 by torch's own counter, whose hooks keep the last block from being trimmed."""
    shape = TransformerShape()
    sequence = sequence_of(shape, (512, 896), 81)
    assert sequence.total == 48_832
    assert transformer_pass(shape, sequence, PassKind(direct=False)).total == pytest.approx(3.155e15, rel=1e-3)
    trimmed = transformer_pass(shape, sequence, PassKind(first=True, first_of_segment=True)).total
    assert 0.99 < trimmed / 3.155e15 < 0.996


@pytest.mark.parametrize("shape", [EMBEDDED, TransformerShape(
    num_attention_heads=4, attention_head_dim=16, ffn_dim=128, num_layers=3, freq_dim=32, text_dim=16, image_dim=16,
)])  # fmt: skip
def test_a_guided_segment_costs_what_the_forms_say(shape):
    """Two passes a step with one memory: pictures embedded once, a start shared, prompts kept."""
    size, frames, steps = (64, 64), 9, 2
    network, inputs = small_network(shape, torch.float32, CPU), pass_inputs(shape, size, frames, CPU)
    remembered = SegmentMemory(shares_steps=True)
    texts = [None, None] if shape.text_dim is None else [inputs["encoder_hidden_states"], torch.ones(1, 512, 16)]

    def denoise():
        for step in range(steps):
            inputs["timestep"] = torch.full((1,), 900.0 - step)
            for text in texts:
                network(**inputs | {"encoder_hidden_states": text}, memory=remembered)

    found = costs_of(denoise)
    expected = segment_denoising(shape, sequence_of(shape, size, frames), steps=steps, passes=2)
    if shape.text_dim is None:
        # Without a prompt the second pass's time embedding is all that it has for itself, as in the forms.
        assert sum(found.operations.values()) == pytest.approx(expected.total, rel=1e-6)
    else:
        assert sum(found.operations.values()) == pytest.approx(expected.total, rel=0.01)


@pytest.mark.parametrize(
    ("cache", "attending"),
    [(StepCache.FIRST_BLOCK, None), (StepCache.MAG, None), (StepCache.TAYLORSEER, attending_steps(5))],
)
def test_step_caches_keep_and_spare_what_the_forms_say(cache, attending):
    shape = TransformerShape(
        num_attention_heads=4, attention_head_dim=16, ffn_dim=128, num_layers=3, freq_dim=32, text_dim=16, image_dim=16
    )
    size, frames, passes, steps = (64, 64), 9, 2, 5
    network, inputs = small_network(shape, torch.bfloat16, CPU), pass_inputs(shape, size, frames, CPU)
    sequence = sequence_of(shape, size, frames)
    still = Magnitudes((1000.0, 0.0), (0.0, 0.0))
    with torch.no_grad():
        network(**inputs)  # rotary factors are kept without a cache, too
    speed_up(network, CPU, Speed(cache=cache), Placement(kind=PlacementKind.RESIDENT), still)
    with torch.no_grad(), Costs() as costs:
        for step in range(steps):
            inputs["timestep"] = torch.full((1,), 900.0 - 100 * step)
            for name in ("guided", "unguided"):
                with network.cache_context(name):
                    network(**inputs)
    assert costs.live == pytest.approx(memory.step_cache_bytes(shape, sequence, cache, passes), rel=0.05)
    exact = segment_denoising(shape, sequence, steps=steps, passes=passes, direct=False)
    told = segment_denoising(shape, sequence, steps=steps, passes=passes, direct=False, attending=attending)
    found = sum(costs.operations.values())
    if cache is StepCache.TAYLORSEER:
        assert found == pytest.approx(told.total, rel=1e-6)
        assert told.total < 0.8 * exact.total
    else:  # not predicted: at most the exact run's
        assert told.total == exact.total >= found


@pytest.mark.parametrize(
    ("size", "frames", "tile"),
    [((512, 896), 13, None), ((128, 256), 9, 128)],
)
def test_wans_autoencoder_costs_what_the_forms_say(size, frames, tile):
    shape, latents = AutoencoderShape(), 1 + (frames - 1) // 4
    with FakeTensorMode():
        vae = AutoencoderKLWan().eval()
        assert stream_autoencoder(vae, tile)
        encoded = costs_of(lambda: vae.encode(torch.empty(1, 3, frames, *size)))
        hidden = torch.empty(1, 16, latents, size[0] // 8, size[1] // 8)
        decoded = costs_of(lambda: vae.decode(hidden))
    for found, expected in (
        (encoded, video_encoding(shape, size, frames, tile=tile)),
        (decoded, video_decoding(shape, size, frames, tile=tile)),
    ):
        assert found.operations["convolution"] == pytest.approx(expected.convolution, rel=1e-6)
        assert found.operations["attention"] == pytest.approx(expected.attention, rel=1e-6)
    pixels = autoencoders.picture_bytes(size, frames, 4)
    assert autoencoders.encoding_peak(shape, size, frames, 4, tile=tile) == pytest.approx(encoded.peak, rel=0.05)
    assert autoencoders.decoding_peak(shape, size, frames, 4, tile=tile) + pixels == pytest.approx(
        decoded.peak, rel=0.05
    )


@pytest.mark.parametrize(("size", "frames"), [((128, 128), 17), ((128, 128), 5), ((64, 128), 17)])
@pytest.mark.parametrize("native", [True, False])
def test_the_small_autoencoder_costs_what_the_forms_say(size, frames, native, monkeypatch):
    monkeypatch.setattr(autoencoder, "has_native_bf16", lambda device: native)
    widths, blocks = (48, 96, 128), (1, 2, 2)
    vae = AutoencoderPatchTransform(z_dim=64, num_static_channels=44, refiner_widths=widths, refiner_blocks=blocks)
    weights = Weights(parameters=sum(each.numel() for each in vae.refiner.parameters()))
    shape = AutoencoderShape(base_dim=None, z_dim=64, refiner_widths=widths, refiner_blocks=blocks, weights=weights)
    encoded = costs_of(lambda: vae.eval().encode(torch.zeros(1, 3, frames, *size)))
    latents = torch.zeros(1, 64, 1 + (frames - 1) // 4, size[0] // 8, size[1] // 8)
    decoded = costs_of(lambda: vae.decode(latents))
    assert encoded.operations["matmul"] == pytest.approx(video_encoding(shape, size, frames).total, rel=1e-6)
    assert sum(decoded.operations.values()) == pytest.approx(video_decoding(shape, size, frames).total, rel=1e-6)
    assert autoencoders.encoding_peak(shape, size, frames, 4) == pytest.approx(encoded.peak, rel=0.05)
    assert autoencoders.decoding_peak(shape, size, frames, 2 if native else 4) == pytest.approx(decoded.peak, rel=0.05)


def test_encoders_cost_what_the_forms_say():
    with FakeTensorMode():
        sizes = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64}
        text = UMT5EncoderModel(UMT5Config(vocab_size=9, num_layers=2, feed_forward_proj="gated-gelu", **sizes)).eval()
        found = costs_of(lambda: text(torch.zeros(1, 512, dtype=torch.long), torch.ones(1, 512)))
        assert sum(found.operations.values()) == text_encoding(TextEncoderShape(num_layers=2, **sizes)).total
        sizes = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16, "num_hidden_layers": 2}
        image = CLIPVisionModel(CLIPVisionConfig(image_size=224, patch_size=14, **sizes)).eval()
        found = costs_of(lambda: image(torch.zeros(1, 3, 224, 224), output_hidden_states=True))
        assert sum(found.operations.values()) == image_encoding(ImageEncoderShape(**sizes)).total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_weigh_what_the_network_does(dtype):
    with FakeTensorMode():
        network = small_network(LARGE, dtype, CPU)
        held = sum(each.nbytes for each in network.parameters())
        block = sum(each.nbytes for each in network.blocks[0].parameters())
    assert memory.weight_bytes(parameter_shapes(LARGE), dtype.itemsize) == held
    assert memory.block_bytes(LARGE, dtype.itemsize) == block
    assert memory.transformer_bytes(LARGE, dtype.itemsize) == held


def test_weights_in_fewer_bytes():
    whole = memory.block_bytes(LARGE, 2)
    assert memory.block_bytes(LARGE, 2, WeightStorage.FP8) == pytest.approx(whole / 2, rel=2e-3)
    assert memory.block_bytes(LARGE, 2, WeightStorage.NF4) == pytest.approx(whole * 0.26, rel=5e-3)
    # A file of blocks keeps its own size; one that is not quantised has nothing to keep.
    blocks = TransformerShape(num_layers=3, weights=Weights(parameters=1000, nbytes=600, format="GGUF"))
    assert memory.block_bytes(blocks, 2, WeightStorage.STORED) == pytest.approx(0.3 * whole, rel=5e-3)
    assert memory.block_bytes(LARGE, 2, WeightStorage.STORED) == whole
