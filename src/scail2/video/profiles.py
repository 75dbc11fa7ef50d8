"""The colours of a still picture: whatever its mode and its embedded profile, 8-bit sRGB comes out."""

import io

import numpy as np
from PIL import Image, ImageCms

from scail2.video.colour import ToBytes

_WIDE_GREY = ("I", "F")  # and I;16 in every byte order
# Of TIFF: how many bits a value has, and what it means.
_BITS, _MEANING, _ZERO_IS_WHITE = 258, 262, 0
# A profile that moves no colour of a lattice by more than this is sRGB, whatever it is called.
_SAME = 2
_LATTICE = (
    np.stack(np.meshgrid(*[np.arange(0, 256, 17)] * 3, indexing="ij"), axis=-1).reshape(16, -1, 3).astype(np.uint8)
)


Profile = ImageCms.ImageCmsProfile | ImageCms.core.CmsProfile


def to_srgb(picture: Image.Image, shown: ToBytes | None = None) -> np.ndarray:
    """uint8 sRGB ``(H, W, 3)``, or straight RGBA ``(H, W, 4)`` exactly where the picture's mode has transparency.

    An embedded profile is judged by its content: one that does what sRGB does changes nothing, any other is applied, in
    every mode (palette, grey of 8 and 16 bits, CMYK, Lab). A profile that is broken or belongs to another kind of picture
    is ignored, as every viewer does. ``shown`` is what other words of the file demand, in the place of a profile.
    """
    if picture.mode == "La":  # premultiplied grey, which Pillow turns into nothing else
        picture = picture.convert("LA")
    profile = _profile(picture) if shown is None else None
    if picture.mode in _WIDE_GREY or picture.mode.startswith("I;16"):
        grey, key = _wide_grey(picture, profile, shown), picture.info.get("transparency")
        if not isinstance(key, int):
            return grey
        return np.dstack([grey, np.where(np.asarray(picture) == key, 0, 255).astype(np.uint8)])
    alpha = np.array(picture.convert("RGBA").getchannel("A")) if picture.has_transparency_data else None
    colours = _colours(picture, profile)
    if shown is not None:
        colours = shown(colours.astype(np.uint16) * 257)
    return colours if alpha is None else np.dstack([colours, alpha])


def levels_of(picture: Image.Image) -> tuple[int, int] | None:
    """The stored values that are black and white in a TIFF's grey of up to 16 bits, where these are not 0 and 65535.

    Pillow gives 12 bits as they are, and 16 bits whose zero is white as a negative. To be asked before the picture is turned.
    """
    if picture.format != "TIFF" or not picture.mode.startswith("I;16"):
        return None
    tags = getattr(picture, "tag_v2", {})
    white = 2 ** int((tags.get(_BITS) or (16,))[0]) - 1
    levels = (white, 0) if tags.get(_MEANING) == _ZERO_IS_WHITE else (0, white)
    return None if levels == (0, 65_535) else levels


def stretched(picture: Image.Image, levels: tuple[int, int]) -> Image.Image:
    """Grey of up to 16 bits with these values (`levels_of`) as black 0 and white 65535."""
    black, white = levels
    values = np.clip((np.asarray(picture).astype(np.float64) - black) / (white - black), 0, 1)
    grey = Image.fromarray(np.rint(values * 65_535).astype(np.uint16))
    grey.info = picture.info  # its profile is there
    return grey


def _profile(picture: Image.Image) -> ImageCms.ImageCmsProfile | None:
    data = picture.info.get("icc_profile")
    if not data:
        return None
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(data))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _space(profile: ImageCms.ImageCmsProfile | None) -> str:
    """``"RGB"``, ``"GRAY"``, ``"CMYK"``, ``"Lab"`` …; empty without a profile."""
    return profile.profile.xcolor_space.strip() if profile is not None else ""


def _colours(picture: Image.Image, profile: ImageCms.ImageCmsProfile | None) -> np.ndarray:
    """uint8 ``(H, W, 3)`` without transparency."""
    space = _space(profile)
    if picture.mode == "LAB":
        own = profile if space == "Lab" and profile is not None else ImageCms.createProfile("LAB")
        return _applied(picture, own, Image.new("RGB", picture.size))
    if picture.mode == "CMYK":
        plain = picture.convert("RGB")
        return _applied(picture, profile, plain) if profile is not None and space == "CMYK" else np.array(plain)
    if picture.mode in ("1", "L", "LA"):
        grey = picture.getchannel("L") if picture.mode == "LA" else picture.convert("L")
        if profile is not None and space == "GRAY":
            return _applied(grey, profile, grey.convert("RGB"))
        plain = grey.convert("RGB")
    else:
        # Through RGBA where there is transparency: a palette's colours then come out straight, not laid over black.
        plain = picture.convert("RGBA").convert("RGB") if picture.has_transparency_data else picture.convert("RGB")
    if profile is None or space != "RGB" or _is_srgb(profile):
        return np.array(plain)
    return _applied(plain, profile, plain)


def _applied(picture: Image.Image, profile: Profile, plain: Image.Image) -> np.ndarray:
    """The picture through its profile; ``plain`` where the profile cannot be used."""
    try:
        converted = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        converted = plain
    return np.array(converted)


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    lattice = Image.fromarray(_LATTICE)
    moved = _applied(lattice, profile, lattice).astype(int)
    return int(np.abs(moved - _LATTICE).max()) <= _SAME


def _wide_grey(picture: Image.Image, profile: ImageCms.ImageCmsProfile | None, shown: ToBytes | None) -> np.ndarray:
    """Grey of 16 or 32 bits, scaled (Pillow would clip it); its profile is applied between the steps of 8 bits too."""
    values = np.asarray(picture).astype(np.float64)
    values = np.clip(np.nan_to_num(values / 257.0 if picture.mode != "F" else values * 255.0), 0, 255)
    if shown is not None:
        return shown(np.repeat(np.rint(values * 257.0).astype(np.uint16)[..., None], 3, axis=-1))
    if _space(profile) in ("GRAY", "RGB"):
        steps = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        values = np.interp(values, np.arange(256), _colours(steps, profile)[0, :, 1])
    grey = np.rint(values).astype(np.uint8)
    if not grey.any():
        grey[values > 0] = 1  # nothing but numbers of characters, say: what reads them as a mask has to see some
    return np.repeat(grey[..., None], 3, axis=-1)
