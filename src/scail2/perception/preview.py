"""Masks made visible: overlays for videos, and contact sheets."""

import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from scail2.errors import InputError
from scail2.files.documents import load_json
from scail2.files.ownership import Kind, claimed_file
from scail2.files.staging import atomic_file
from scail2.files.storage import hash_file
from scail2.masks import palette_codes
from scail2.perception.binding import Binding, bind
from scail2.perception.store import MaskStore
from scail2.perception.tracks import TrackedMasks
from scail2.video import SizedFrames, VideoReader, VideoWriter, read_image, resize_cover, resize_letterbox

# Characters bound to nobody are shown in grey.
UNBOUND_RGB = (150, 150, 150)
_PAPER = (24, 24, 28)
INK = (230, 230, 230)
_ALERT = (255, 170, 60)
_GUTTER = 6
_CAPTION = 14
_TILE = 192
_WINDOW = 16
_WHITE_CODE = 7
_SHEET_MARK = "scail2 contact sheet"
_RECORD = "preview.json"


def colours(numbers: int, slots: dict) -> np.ndarray:
    """Colour table uint8 (numbers + 1, 3) by track number; row 0 (nobody) is unused."""
    table = np.zeros((numbers + 1, 3), np.uint8)
    for number in range(1, numbers + 1):
        table[number] = slots[number].rgb if number in slots else UNBOUND_RGB
    return table


def overlay(frames: np.ndarray, labels: np.ndarray, table: np.ndarray, *, strength: float = 0.45) -> np.ndarray:
    """Frames uint8 (T, H, W, 3) tinted where characters are, their outlines drawn in full colour.

    Args:
        labels: uint8 (T, H, W), 0 where nobody is.
        table: colours by label, as `colours` gives.
        strength: share of the colour inside a character.
    """
    tint = table[labels].astype(np.float32)
    inside = (labels > 0)[..., None]
    mixed = np.where(inside, frames * (1 - strength) + tint * strength, frames)
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[:, :, 1:] |= labels[:, :, 1:] != labels[:, :, :-1]
    outline = np.where(inside, tint, 255.0)
    return np.where(edge[..., None], outline, mixed).round().astype(np.uint8)


def write_png(path: Path, rgb: np.ndarray) -> None:
    """Writes uint8 (H, W, 3) as a whole, or not at all."""
    with atomic_file(path) as file:
        Image.fromarray(rgb).save(file, format="PNG")


def write_sheet(path: Path, rgb: np.ndarray) -> None:
    """The same with a mark in the picture, by which `is_sheet` recognises it."""
    facts = PngInfo()
    facts.add_text("Software", _SHEET_MARK)
    with atomic_file(path) as file:
        Image.fromarray(rgb).save(file, format="PNG", pnginfo=facts)


def is_sheet(path: Path) -> bool:
    """Whether a file is a picture that `write_sheet` wrote."""
    try:
        with Image.open(path) as picture:
            return picture.info.get("Software") == _SHEET_MARK
    except (OSError, ValueError, SyntaxError):
        return False


SHEETS = Kind("contact sheets", "a mark in the picture", is_sheet)


class Sheet:
    """Contact sheets of one pair of masks."""

    def __init__(self, reference: TrackedMasks, driving: TrackedMasks, binding: Binding):
        self.reference, self.driving, self.binding = reference, driving, binding
        self._shown = colours(len(reference.tracks), binding.reference_slots())
        self._moved = colours(len(driving.tracks), binding.driving_slots())

    def overlay_driving(self, frames: np.ndarray, start: int) -> np.ndarray:
        """Driving frames uint8 (T, H, W, 3) from frame `start` on, with their masks over them."""
        return overlay(frames, self.driving.labels.labels(start, start + len(frames)), self._moved)

    def _tile(self, rgb: np.ndarray, masks: TrackedMasks, frame: int) -> Image.Image:
        scale = _TILE / rgb.shape[0]
        tile = tile_of(rgb)
        draw = ImageDraw.Draw(tile)
        for track in masks.tracks:
            if track.present[frame]:
                x0, y0, x1, _ = track.boxes[frame] * scale
                draw.text(((x0 + x1) / 2 - 3, max(0, y0 - 11)), str(track.number), fill=(255, 255, 255), stroke_width=1,
                          stroke_fill=(0, 0, 0))  # fmt: skip
        return tile

    def draw(
        self,
        reference: np.ndarray,
        driving: SizedFrames,
        frames: Sequence[int],
        *,
        marked: Collection[int] = (),
        columns: int = 6,
    ) -> np.ndarray:
        """A picture uint8 (H, W, 3): the reference, then the chosen driving frames, masks over them, numbers on top.

        Args:
            reference: uint8 (H, W, 3).
            frames: driving frames to show; those in `marked` get an orange caption.
        """
        over = overlay(reference[None, ..., :3], self.reference.labels.labels(0, 1), self._shown)[0]
        tiles = [("reference", self._tile(over, self.reference, 0), INK)]
        for frame in frames:
            rgb = self.overlay_driving(driving.frames(frame, frame + 1)[..., :3], frame)[0]
            ink = _ALERT if frame in marked else INK
            tiles.append((f"driving {frame}", self._tile(rgb, self.driving, frame), ink))
        return grid(tiles, columns)


def tile_of(rgb: np.ndarray) -> Image.Image:
    """A picture uint8 (H, W, 3) at the height of a contact sheet's tiles."""
    height, width = rgb.shape[:2]
    scale = _TILE / height
    # Whole-number enlargement keeps the pixels of tiny masks readable.
    method = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC
    return Image.fromarray(np.ascontiguousarray(rgb)).resize((max(1, round(width * scale)), _TILE), method)


def palette_overlay(frames: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Frames uint8 (T, H, W, 3) with the characters of their palette masks uint8 (T, H, W, 3) over them."""
    codes = palette_codes(palette)
    labels = np.where(codes == _WHITE_CODE, 0, codes)
    table = np.array([[255 * (code >> bit & 1) for bit in range(3)] for code in range(_WHITE_CODE)], np.uint8)
    return overlay(frames, labels, table)


def grid(tiles: Sequence[tuple[str, Image.Image, tuple[int, int, int]]], columns: int) -> np.ndarray:
    """Tiles with their captions and the captions' colours, in rows: uint8 (H, W, 3)."""
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    cell_w = max(tile.width for _, tile, _ in tiles) + _GUTTER
    cell_h = _TILE + _CAPTION + _GUTTER
    paper = Image.new("RGB", (columns * cell_w + _GUTTER, rows * cell_h + _GUTTER), _PAPER)
    draw = ImageDraw.Draw(paper)
    for index, (caption, tile, ink) in enumerate(tiles):
        x, y = _GUTTER + index % columns * cell_w, _GUTTER + index // columns * cell_h
        draw.text((x, y), caption, fill=ink)
        paper.paste(tile, (x, y + _CAPTION))
    return np.asarray(paper)


def _pictures(store: MaskStore, reference: Path | None, driving: Path | None) -> tuple[np.ndarray, VideoReader]:
    """The picture and the video that belong to a store, at its size and rate."""
    files = store.info.get("files", {})
    kept = store.directory / "reference.png"
    letterbox = files.get("fit") == "letterbox"
    found = reference or (kept if kept.exists() else files.get("reference"))
    video = driving or files.get("driving")
    for path, option in ((found, "--reference"), (video, "--driving")):
        if path is None:
            raise InputError(f"the preview needs the file that was masked, which is not known: give {option} FILE.")
        if not Path(path).exists():
            raise InputError(f"the preview needs the file that was masked, but there is no {path}: give {option} FILE.")
    size = (store.height, store.width)
    picture = (resize_letterbox if letterbox else resize_cover)(read_image(found)[..., :3], *size)
    frames = VideoReader(video, fps=store.fps, size=size, fit=files.get("fit", "cover"))
    if len(frames) < store.total:
        raise InputError(f"{video} has {len(frames)} frames at {store.fps} fps, but its masks have {store.total}.")
    return np.ascontiguousarray(picture), frames


def write_preview(
    store: MaskStore,
    reference: Path | None,
    driving: Path | None,
    video: Path,
    picture: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes an overlay video (driving frames under their masks) and a contact sheet of a store.

    Args:
        reference, driving: the masked files; None for those the store remembers.
        video, picture: where to write.
    """
    still, frames = _pictures(store, reference, driving)
    with tempfile.TemporaryDirectory(prefix="scail2-preview-") as scratch:
        shown, moved = store.measure(Path(scratch))
        sheet = Sheet(shown, moved, bind(shown, moved))
        with VideoWriter(video, store.fps, (store.height, store.width), codec="h264") as writer:
            for start in range(0, store.total, _WINDOW):
                stop = min(start + _WINDOW, store.total)
                writer.write(sheet.overlay_driving(frames.frames(start, stop), start))
                if progress:
                    progress(stop, store.total)
        spread = np.linspace(0, store.total - 1, min(17, store.total)).round().astype(int).tolist()
        write_png(picture, sheet.draw(still, frames, sorted(set(spread))))


@contextmanager
def previews(store: MaskStore, video: Path, picture: Path) -> Iterator[tuple[Path, Path]]:
    """Where to make a preview's two files, which then replace those of an earlier preview, and nothing else.

    The store remembers (`preview.json`) what its previews were.
    """
    record = store.directory / _RECORD
    known = load_json(record, dict[str, list[str]]).get("sha256", []) if record.exists() else []
    kind = Kind("previews", f"one that {record} remembers", lambda path: hash_file(path) in known)
    with claimed_file(video, kind) as film, claimed_file(picture, kind) as still:
        yield film.place, still.place
        made = [hash_file(film.place), hash_file(still.place)]
        # Before they have their names: a kill in between leaves no preview that nobody knows.
        with atomic_file(record) as file:
            file.write((json.dumps({"sha256": sorted({*known, *made})}, indent=1) + "\n").encode())
        film.publish()
        still.publish()
        with atomic_file(record) as file:
            file.write((json.dumps({"sha256": made}, indent=1) + "\n").encode())
