"""A run kept as a folder, and one segment of it rendered again: `python examples/run_directory.py film.mp4`."""

import sys
from pathlib import Path

import scail2

EXAMPLE = Path(scail2.__file__).parent / "assets" / "example" / "animation"


def main(output: str) -> None:
    request = scail2.AnimationRequest(
        reference=EXAMPLE / "reference.png",
        driving=EXAMPLE / "driving.mp4",
        reference_mask=(EXAMPLE / "reference_mask.png",),
        driving_mask=(EXAMPLE / "driving_mask.mkv",),
        frames=29,
        output=Path(output),
    )
    run = scail2.RunDirectory.create(Path(output).with_suffix(".run"), request)
    run.plan()  # masks, segments and preflight, to look at before anything is rendered
    run.execute()  # the same call goes on where an interrupted run stopped
    run.rerender(segment=1, seed=5)  # other noise for the second segment; the film is written again


if __name__ == "__main__":
    main(sys.argv[1])
