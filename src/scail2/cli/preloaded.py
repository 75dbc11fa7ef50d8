"""Imported once by the server that training processes are forked from: everything they need, without libraries' remarks."""

from scail2.cli.libraries import quiet_process

quiet_process()

import scail2.training.distributed.rank  # noqa: E402
import scail2.training.session  # noqa: E402, F401
