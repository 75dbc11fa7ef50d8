"""What libraries say about themselves while they are loaded, and what of it is kept off the terminal.

Only the command line does this, and only for the remarks listed here: each was looked into, and nobody who runs a command
can or need do anything about it. Whatever else a library says is shown. `tests/contract/test_doc_commands.py` runs every verb and
finds new remarks. Importing scail2 changes no logger and no filter.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from scail2.models.light_imports import defer

# For people who build models, not for those who run them; `from_pretrained` and the schedulers raise many of these.
_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, r"diffusers\b"),
    # Sharded layers return views, which must not be added to in place; where gradients are on, the network never does.
    (UserWarning, r"torch\.distributed\.fsdp\._fully_shard\._fsdp_state"),
)


@dataclass(frozen=True, slots=True)
class Remark:
    """A message of one logger that begins with ``start``; as a filter of that logger it lets all others pass."""

    logger: str
    start: str

    def filter(self, record: logging.LogRecord) -> bool:
        """False for the remark itself."""
        return not record.getMessage().startswith(self.start)


REMARKS = (
    # torchao's own kernels, which are built for other versions of PyTorch and of Python and not needed to run a model.
    Remark("torchao", "Failed to load "),
    Remark("torchao", "Skipping import of cpp extensions"),
    # diffusers looks for a module of torchao that newer versions no longer have.
    Remark("diffusers.quantizers.torchao.torchao_quantizer", "Unable to import `torchao` Tensor objects"),
    # Kernels of torchao for integers, which no adapter uses.
    Remark("torchao.kernel.intmm", "Warning: Detected no triton"),
    # An optional kernel of bitsandbytes for quantised layers on a CPU.
    Remark("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward"),
    # torchao registers an enumeration in a way that PyTorch no longer needs.
    Remark("torch.utils._pytree", "<enum "),
)


def quiet_process() -> None:
    """For a worker process of a command: the remarks above are not shown in it, and little is imported."""
    defer()
    for category, module in _WARNINGS:
        warnings.filterwarnings("ignore", category=category, module=module)
    for each in REMARKS:
        logging.getLogger(each.logger).addFilter(each)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """In the block the remarks above are not shown; afterwards everything is as it was."""
    added = [each for each in REMARKS if each not in logging.getLogger(each.logger).filters]
    with warnings.catch_warnings():
        quiet_process()
        try:
            yield
        finally:
            for each in added:
                logging.getLogger(each.logger).removeFilter(each)
