"""Stand-ins for other people's programs: scripts that take the same arguments and speak the same files, without any network.

MoCha's paints the masked box of the first frame in the reference's mean colour, through the whole film; SCAIL's pose stage
inverts the driving film, and its model stage blends that with the reference.
"""

import sys
from pathlib import Path

from scail2.synthesis.generators.external import Tool

_FILMS = """
import sys
import av, numpy as np
from PIL import Image

def read(path):
    with av.open(path) as film:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])

def write(path, frames, fps=30):
    with av.open(path, "w") as film:
        stream = film.add_stream("libx264", rate=fps, options={"crf": "4", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        film.mux(stream.encode())
"""

MOCHA = (
    _FILMS
    + """
import argparse, csv, os
parser = argparse.ArgumentParser()
for name in ("data_path", "ckpt_path", "output_dir"):
    parser.add_argument("--" + name)
parser.add_argument("--cfg_scale", type=float)
parser.add_argument("--dataloader_num_workers", type=int, default=1)
args = parser.parse_args()
(row,) = csv.DictReader(open(args.data_path))
frames, mask = read(row["source_video"]), np.asarray(Image.open(row["source_mask"]).convert("RGB"))
reference = np.asarray(Image.open(row["reference_1"]))
print("second reference:", row["reference_2"], "checkpoint:", args.ckpt_path, "guidance:", args.cfg_scale)
marked = mask[..., 0] > 127
colour = reference[(reference < 250).any(axis=-1)].mean(axis=0)
frames = frames.copy()
frames[:, marked] = colour.astype(np.uint8)
os.makedirs(args.output_dir)
name = os.path.splitext(os.path.basename(row["source_video"]))[0]
write(os.path.join(args.output_dir, name + "_replaced.mp4"), frames)
"""
)

SCAIL_POSE = (
    _FILMS
    + """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--subdir")
parser.add_argument("--use_align", action="store_true")
parser.add_argument("--resolution", nargs="+")
args = parser.parse_args()
height, width = (int(each.strip("[,]")) for each in args.resolution)
frames = read(args.subdir + "/driving.mp4")
assert frames.shape[1:3] == (height, width), frames.shape
assert Image.open(args.subdir + "/ref.png").size == (width, height)
write(args.subdir + ("/rendered_aligned.mp4" if args.use_align else "/rendered.mp4"), 255 - frames)
"""
)

SCAIL = (
    _FILMS
    + """
import argparse, json, os
parser = argparse.ArgumentParser()
parser.add_argument("--base", nargs="*")
parser.add_argument("--seed", type=int)
args = parser.parse_args()
given = {}
for path in args.base:
    given |= json.load(open(path))["args"]
assert given["input_type"] == "txt" and os.environ["WORLD_SIZE"] == "1"
for line in open(given["input_file"]):
    prompt, pair = line.strip().split("@@")
    poses = read(pair + "/rendered_aligned.mp4").astype(int)
    reference = np.asarray(Image.open(pair + "/ref.png")).astype(int)
    name = os.path.basename(pair)
    os.makedirs(os.path.join(given["output_dir"], name))
    open(os.path.join(given["output_dir"], name, "text.txt"), "w").write(prompt)
    write(os.path.join(given["output_dir"], name, name + "_output_000000.mp4"), ((poses + reference) // 2).astype(np.uint8), 16)
"""
)


def tool(folder: Path, scripts: dict[str, str], **settings) -> Tool:
    """A folder of code with scripts (path -> text), run by this process's own interpreter."""
    for name, text in scripts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Tool(python=Path(sys.executable), folder=folder, **settings)
