"""What there is to say about a film's pictures and their clock: what is done to them on their way, and what is not."""

from fractions import Fraction

import av

from scail2.video import colour
from scail2.video.pixels import squared
from scail2.video.source import Note

_INTERLACED = (2, 3, 4, 5)  # FFmpeg's field orders: 1 is progressive, 0 unknown


def on_picture(first: av.VideoFrame, field_order: int, pixel_aspect: Fraction, stretched: str) -> list[Note]:
    """Notes on a film by its first picture; ``stretched`` tells the two sizes of one whose pixels are not square."""
    notes, shape = [], f"{pixel_aspect.numerator}:{pixel_aspect.denominator}"
    if squared(pixel_aspect) != pixel_aspect:
        sentence = f"its pixels claim to be {shape}, which no camera makes: taken as square"
        fix = "set the right shape: ffmpeg -i IN -aspect 16:9 -c copy OUT"
        notes.append(Note(code="pixel_aspect", message=sentence, fix=fix))
    elif pixel_aspect != 1:
        notes.append(Note(code="pixel_aspect", message=f"its pixels are {shape}: stretched from {stretched}"))
    matrix = 0 if first.format.is_rgb else int(first.colorspace)
    notes += colour.notes_on(int(first.color_primaries), int(first.color_trc), matrix)
    if first.interlaced_frame or field_order in _INTERLACED:
        sentence = "it is interlaced and read as it is stored: what moves is torn into lines"
        fix = "deinterlace it first: ffmpeg -i IN -vf bwdif=0 -crf 12 OUT.mp4"
        notes.append(Note(code="interlaced", message=sentence, fix=fix))
    return notes


def on_shown_part(part: tuple[int, int, int, int] | None) -> list[Note]:
    """A note where the container has players show less than is stored; see `headers.shown_part`."""
    if part is None:
        return []
    sentence = "its container shows only {}×{} of its {}×{} pixels: all of them are read".format(*part)
    fix = "to cut them off, encode it anew with FFmpeg 7.1 or later: ffmpeg -i IN -crf 12 OUT.mp4"
    return [Note(code="cropped_by_container", message=sentence, fix=fix)]


def on_gaps(gaps: list[tuple[Fraction, Fraction]]) -> list[Note]:
    """A note where the film stands still for long; each gap is (seconds after its beginning, seconds it lasts)."""
    if not gaps:
        return []
    at, length = max(gaps, key=lambda gap: gap[1])
    more = f" (the longest of {len(gaps)})" if len(gaps) > 1 else ""
    sentence = f"the picture at {float(at):.2f} s stays on show for {float(length):.1f} s{more}"
    return [Note(code="gap", message=sentence, fix="cut the video there if its clock is wrong")]
