"""Kills servers and workers at random moments: `python tests/fuzz/service_kills.py [MOMENTS] [SEED]`.

Each round submits two runs to two workers, kills a worker or the server at a random moment, restarts what is needed, and
counts jobs that were lost and segments that were finished twice.
"""

import random
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "integration")]

from run_material import make_material, save_model  # noqa: E402
from test_service_kills import kill_and_finish  # noqa: E402


def main() -> None:
    """Runs the rounds and prints what was seen."""
    moments, seed = int(sys.argv[1]) if len(sys.argv) > 1 else 20, int(sys.argv[2]) if len(sys.argv) > 2 else 0
    wrong = {"worker": 0, "server": 0}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        material, model = make_material(folder / "material", frames=19), save_model(folder / "model")
        for number in range(moments):
            for victim in wrong:
                chance = random.Random(f"{seed} {number} {victim}")
                try:
                    kill_and_finish(folder / f"{victim}{number}", model, material, [victim], chance)
                except AssertionError as error:
                    wrong[victim] += 1
                    sys.stdout.write(f"{victim} {number}: {error}\n")
            sys.stdout.write(f"{number + 1} of {moments}: {wrong} wrong\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
