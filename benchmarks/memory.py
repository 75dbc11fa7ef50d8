"""Peak memory of a long run against a short one: it must not grow with the film's length.

    python -m benchmarks.memory [--frames 162 1000] [--model PATH] [--steps 1]

Every run is a process of its own, on a drawn video with given masks, through all stages from masks to the finished file.
Prints the peak resident memory of each and ``ratio: X``, longest over shortest. Denoising steps change the time, not the
memory, so one is enough.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.results import Figure
from scail2.request.animation import AnimationRequest
from scail2.video import VideoWriter

SIZE, FPS, WINDOW = 256, 16, 32
BLUE = (0, 0, 255)


def draw(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames and palette masks uint8 (T, H, W, 3) of a figure that sways before a striped wall."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    wall = np.stack([columns % 64 * 3, rows // 2, np.full_like(rows, 120)], axis=-1).astype(np.uint8)
    frames, masks = [], []
    for frame in range(start, stop):
        centre = SIZE / 2 + 40 * np.sin(frame / 9)
        figure = ((columns - centre) / 36) ** 2 + ((rows - 140) / 100) ** 2 < 1
        frames.append(np.where(figure[..., None], np.uint8([220, 90, 60]), wall))
        masks.append(np.where(figure[..., None], np.uint8(BLUE), np.uint8(0)))
    return np.stack(frames), np.stack(masks)


def write_job(folder: Path, frames: int, model: str | None, steps: int) -> Path:
    """Writes inputs and request of a run, window by window; returns the request's file."""
    picture, mask = (each[0] for each in draw(0, 1))
    Image.fromarray(picture).save(folder / "reference.png")
    Image.fromarray(np.where(mask.any(axis=-1, keepdims=True), mask, np.uint8(255))).save(folder / "reference_mask.png")
    with (
        VideoWriter(folder / "driving.mp4", FPS, (SIZE, SIZE)) as driving,
        VideoWriter(folder / "driving_mask.mkv", FPS, (SIZE, SIZE), codec="ffv1") as masks,
    ):
        for start in range(0, frames, WINDOW):
            pictures, painted = draw(start, min(start + WINDOW, frames))
            driving.write(pictures)
            masks.write(painted)
    request = AnimationRequest(
        reference=folder / "reference.png",
        driving=folder / "driving.mp4",
        reference_mask=folder / "reference_mask.png",
        driving_mask=folder / "driving_mask.mkv",
        output=folder / "film.mp4",
        model=model,
        num_inference_steps=steps,
    )
    path = folder / "job.json"
    path.write_text(json.dumps(request.to_json()))
    return path


def run_job(path: Path) -> None:
    """In the child: executes the run and prints its peak resident memory in bytes and its seconds."""
    from scail2.runs import RunDirectory

    started = time.monotonic()
    RunDirectory.create(path.parent / "film.run", AnimationRequest.from_json(path.read_text())).execute()
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(json.dumps({"peak": peak, "seconds": time.monotonic() - started}))


def measure(frames: int, model: str | None, steps: int) -> float:
    """Peak resident memory, in bytes, of a run of so many frames."""
    with tempfile.TemporaryDirectory(prefix="scail2-memory-") as folder:
        job = write_job(Path(folder), frames, model, steps)
        command = [sys.executable, "-m", "benchmarks.memory", "--job", str(job)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{frames} frames: peak {result['peak'] / 2**20:.0f} MiB in {result['seconds']:.0f} s", flush=True)
    return result["peak"]


def figures(frames: Sequence[int] = (162, 1000)) -> Iterator[Figure]:
    """Peak of a short and a long run with the embedded model, and their ratio."""
    peaks = {count: measure(count, None, 1) for count in frames}
    for count, peak in peaks.items():
        yield Figure(name=f"{count} frames", value=peak / 2**20, unit="MiB")
    yield Figure(name="longest / shortest", value=peaks[max(peaks)] / peaks[min(peaks)], unit="ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[162, 1000], help="lengths to compare")
    parser.add_argument("--model", help="model to run; the embedded one by default")
    parser.add_argument("--steps", type=int, default=1, help="denoising steps")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        run_job(options.job)
        return
    peaks = {frames: measure(frames, options.model, options.steps) for frames in options.frames}
    print(f"ratio: {peaks[max(peaks)] / peaks[min(peaks)]:.3f}")


if __name__ == "__main__":
    main()
