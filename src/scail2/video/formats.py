"""The forms a film can be written in: which codec suits which name, and which of them keep transparency."""

import os
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from pathlib import Path

from scail2.errors import InputError


class Codec(StrEnum):
    """The output forms; ``PNG`` is a folder of numbered pictures."""

    H264 = "h264"
    FFV1 = "ffv1"
    PNG = "png"
    PRORES4444 = "prores4444"
    VP9_ALPHA = "vp9-alpha"
    GIF = "gif"
    WEBP = "webp"

    @classmethod
    def parse(cls, value: "str | Codec") -> "Codec":
        try:
            return cls(value)
        except ValueError:
            raise InputError(f"codec must be one of {', '.join(cls)}, got {value!r}") from None

    @property
    def keeps_sound(self) -> bool:
        """Whether files of this form can carry sound."""
        return self not in (Codec.PNG, Codec.GIF, Codec.WEBP)

    @property
    def keeps_alpha(self) -> bool:
        """Whether transparency can be stored (in ``GIF`` a pixel is there or not)."""
        return self is Codec.PNG or ENCODINGS[self].alpha_format is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """How one codec is written."""

    encoder: str
    suffixes: tuple[str, ...]
    opaque_format: str  # pixel format for RGB frames
    alpha_format: str | None = None  # for RGBA frames; None: alpha cannot be kept
    options: dict[str, str] = field(default_factory=dict)
    clock: int | None = None  # ticks a second that times are rounded to; None: the film's own rate
    fastest: int | None = None  # frames a second beyond which players do not follow


ENCODINGS = {
    Codec.H264: Encoding(
        encoder="libx264",
        suffixes=(".mp4", ".mov", ".m4v", ".mkv"),
        opaque_format="yuv420p",
        # x264's macroblock tree reads memory it did not set: the same frames now and then gave another file.
        options={"crf": "17", "preset": "medium", "x264-params": "mbtree=0"},
    ),
    Codec.FFV1: Encoding(
        encoder="ffv1",
        suffixes=(".mkv",),
        opaque_format="bgr0",
        alpha_format="bgra",
        # Every frame stands alone (g 1): any one can be read, or lost, without its neighbours.
        options={"level": "3", "g": "1", "slices": "4", "slicecrc": "1"},
    ),
    Codec.PRORES4444: Encoding(
        encoder="prores_ks",
        suffixes=(".mov",),
        opaque_format="yuv444p10le",
        alpha_format="yuva444p10le",
        options={"profile": "4444", "vendor": "apl0"},
    ),
    Codec.VP9_ALPHA: Encoding(
        encoder="libvpx-vp9",
        suffixes=(".webm",),
        opaque_format="yuv420p",
        alpha_format="yuva420p",
        options={"crf": "20", "b": "0", "row-mt": "1", "cpu-used": "4", "auto-alt-ref": "0"},
    ),
    Codec.GIF: Encoding(
        encoder="gif",
        suffixes=(".gif",),
        opaque_format="pal8",
        alpha_format="pal8",
        clock=100,
        # Frames shorter than two hundredths of a second are shown for a tenth by every browser.
        fastest=50,
    ),
    Codec.WEBP: Encoding(
        encoder="libwebp_anim",
        suffixes=(".webp",),
        opaque_format="bgra",
        alpha_format="bgra",
        options={"quality": "90"},
        clock=1000,
        # Frames shorter than 11 thousandths are shown for a tenth of a second.
        fastest=90,
    ),
}
FORMAT_OF_SUFFIX = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".gif": "gif",
    ".webp": "webp",
}
_ALPHA_FORMS = (
    ".mov (ProRes 4444), .webm (VP9), .mkv (FFV1), .webp, .gif (a pixel is there or not), or a folder without dot (PNG)"
)


def codec_for(path: str | os.PathLike, *, alpha: bool = False) -> Codec:
    """The codec that an output name asks for: .mp4/.mov/.m4v H.264, .mkv FFV1, .webm VP9 with alpha, .gif and .webp
    animations, no suffix PNG folder; with ``alpha`` .mov is ProRes 4444.

    Raises:
        InputError: any other suffix, or one that keeps no transparency where ``alpha`` asks for it.
    """
    suffix = Path(path).suffix.lower()
    by_suffix = {
        "": Codec.PNG,
        ".mkv": Codec.FFV1,
        ".webm": Codec.VP9_ALPHA,
        ".gif": Codec.GIF,
        ".webp": Codec.WEBP,
        ".mov": Codec.PRORES4444 if alpha else Codec.H264,
    }
    if suffix in by_suffix:
        return by_suffix[suffix]
    if suffix not in ENCODINGS[Codec.H264].suffixes:
        raise InputError(
            f"{path}: cannot write {suffix} files; name the output .mp4, .mov, .m4v, .mkv, .webm, .gif, .webp, or a folder "
            "without dot"
        )
    if alpha:
        raise InputError(f"{path}: {suffix} files keep no transparency; name the output {_ALPHA_FORMS}")
    return Codec.H264


def check_form(path: str | os.PathLike, codec: Codec, *, alpha: bool = False, fps: Fraction | None = None) -> None:
    """Refuses a codec that does not suit the name, the transparency or the rate asked for; looks at no file.

    Raises:
        InputError: as said.
    """
    suffix = Path(path).suffix.lower()
    if alpha and not codec.keeps_alpha:
        raise InputError(f"{path}: {codec} cannot store transparency; name the output {_ALPHA_FORMS}")
    if codec is Codec.PNG:
        if suffix:
            raise InputError(f"{path}: PNG frames go to a folder; give a name without {suffix}")
        return
    encoding = ENCODINGS[codec]
    if suffix not in encoding.suffixes:
        raise InputError(
            f"{path}: {codec} is written to {' or '.join(encoding.suffixes)} files; change the name or the codec"
        )
    if fps is not None and encoding.fastest is not None and fps > encoding.fastest:
        raise InputError(
            f"{path}: {codec} files show at most {encoding.fastest} frames a second, not {float(fps):.4g}; ask for fewer with "
            "--fps or choose another form"
        )
