"""Every writing verb is killed at random moments; the same command completes, and nothing tells that it was killed.

Two moments a verb; with SCAIL2_KILLS=20 twenty, half of them by the clock (`docs/safety.md`).
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
KILLS = int(os.environ.get("SCAIL2_KILLS", "2"))
SEED = int(os.environ.get("SCAIL2_KILLS_SEED", "11"))
VERBS = (
    "animate", "masks", "masks over older ones", "synthesize", "preferences", "cache", "train", "convert",
    "convert to one file", "evaluate",
)  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    command = [sys.executable, str(Path(__file__).parent / "kill_verbs.py"), str(tmp_path_factory.mktemp("killed"))]
    command += ["--seed", str(SEED), "--kills", str(KILLS), *(["--clock"] if KILLS > 2 else [])]
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("verb", VERBS)
def test_a_killed_command_completes_to_the_same_files(outcomes, verb):
    outcome = outcomes[verb]
    assert outcome["whole"]["ended"] == 0, outcome["whole"]["said"]
    assert outcome["whole"]["operations"] >= 10
    assert len(outcome["killed"]) == KILLS
    for run in outcome["killed"]:
        # A moment of the clock may come after the work is done; what follows then has nothing left to be killed at.
        begun = run["ends"].index(0) if 0 in run["ends"] else len(run["ends"])
        counted = ["kill_at" in moment for moment in run["moments"][: begun + 1]]
        ends = zip(run["ends"][: begun + 1], counted, strict=True)
        assert all(end == -signal.SIGKILL for end, by_count in ends if by_count), run
        # Killed after its work was done: a new folder or file is not made twice.
        done = run["last"] == 2 and "exists already" in run["said"] and verb.startswith("convert")
        assert run["last"] == 0 or done, run["said"]
        different = {
            name
            for name in outcome["content"].keys() | run["content"].keys()
            if outcome["content"].get(name) != run["content"].get(name)
        }
        assert not different, (run["moments"], sorted(different))


def test_what_was_there_before_outlives_every_kill(outcomes):
    """Older masks stand in their place, or in `superseded/`, whole, once the command was repeated."""
    older = {
        "driving_mask.mkv",
        "reference_mask.png",
        "tracks.json",
        "contact_sheet.png",
        "preflight.json",
        "reference.png",
    }
    names = {f"masks/superseded/1/{name}" for name in older}
    for run in outcomes["masks over older ones"]["killed"]:
        assert names <= run["content"].keys()
        for name in older:
            places = [each for each in run["left"] if each.endswith(f"/{name}")]
            assert places, (name, run["moments"])


def test_kills_left_something_to_recover_from(outcomes):
    """The test would prove nothing if no kill had fallen into the work."""
    halves = [run for outcome in outcomes.values() for run in outcome["killed"] if run["left"] != outcome["content"]]
    assert len(halves) >= len(VERBS)
    assert any(".partial" in name for run in halves for name in run["left"])
