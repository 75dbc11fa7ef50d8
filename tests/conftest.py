"""Shared set-up: the folder of `tiny` on the path (by this file's presence), seeds, one thread, signals that arrive."""

import os
import signal

# Tiny tensors only lose by being split; set before torch starts its threads, and inherited by the processes tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
hypothesis.settings.register_profile("seeded", derandomize=True, database=None)
hypothesis.settings.load_profile("seeded")

# A shell starts what runs in its background with interrupts ignored, and what is ignored is inherited; tests send them.
for _each in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_each) is signal.SIG_IGN:
        signal.signal(_each, signal.default_int_handler if _each is signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
