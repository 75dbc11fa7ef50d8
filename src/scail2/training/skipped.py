"""Steps that change nothing: a loss or gradient that is not finite is never written into the weights."""

import logging
import math
from collections.abc import Mapping

from scail2.errors import InputError

logger = logging.getLogger(__name__)

MOST_SKIPPED = 5


class SkippedSteps:
    """Counts them and ends a training that has too many in a row.

    Args:
        most: the step after so many in a row is not tried.
        total: how many there were before a run was resumed.
    """

    def __init__(self, most: int = MOST_SKIPPED, total: int = 0) -> None:
        self.most, self.total = most, total
        self._in_a_row = 0

    def skips(self, step: int, norm: float, terms: Mapping[str, float]) -> bool:
        """Whether step number ``step``, with this gradient norm and these terms of the loss, was one to skip.

        Raises:
            InputError: it was the last one that is tolerated.
        """
        wrong = [name for name, value in {**terms, "gradient norm": norm}.items() if not math.isfinite(value)]
        if not wrong:
            self._in_a_row = 0
            return False
        self.total += 1
        self._in_a_row += 1
        told = ", ".join(wrong)
        if self._in_a_row >= self.most:
            raise InputError(
                f"Training stopped at step {step}: {told} not finite in {self._in_a_row} steps in a row. No weight was changed "
                "by them; go on from the last checkpoint with a lower --rate, in fp32, or look at the samples."
            )
        logger.warning("step %d skipped: %s not finite (%d so far)", step, told, self.total)
        return True
