"""Shared set-up: the folder of `tiny` on the path (by this file's presence), one seed, one thread."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
