"""The device a command takes when none is named."""

import pytest
import torch

from scail2.devices import default_device
from scail2.errors import InputError
from scail2.training.parallel import ParallelContext


@pytest.mark.parametrize(
    ("present", "expected"),
    [((), "cpu"), (("mps",), "cpu"), (("xpu", "mps"), "xpu"), (("cuda", "xpu"), "cuda")],
)
def test_the_default_device_is_a_gpu_that_needs_no_name(monkeypatch, present, expected):
    for kind in ("cuda", "xpu", "mps"):
        monkeypatch.setattr(getattr(torch, kind), "device_count", lambda kind=kind: int(kind in present))
    assert default_device() == torch.device(expected)
    assert ParallelContext.detect().device == default_device()


def test_training_takes_a_named_device_and_refuses_one_that_is_not_there():
    assert ParallelContext.detect("cpu").device == torch.device("cpu")
    with pytest.raises(InputError, match="no device cuda:99 on this machine"):
        ParallelContext.detect("cuda:99")
