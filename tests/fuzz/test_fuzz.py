"""500 damaged inputs over all readers: each is read, or refused in one line; `campaign.py` takes many more."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from campaign import run


def test_damaged_inputs_are_read_or_refused_in_one_line(tmp_path):
    outcome = run(500, 0, tmp_path)
    assert (outcome.faults, outcome.slow, outcome.leftovers) == ([], [], [])
    assert outcome.read + outcome.refused == 500
    assert outcome.refused > 200
