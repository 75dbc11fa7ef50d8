"""Wide gamut and high dynamic range to sRGB: what the colour tags of films and PNG files mean, and do to their pixels.

Tags are code points of ITU-T H.273. Film of ordinary gamut (BT.709 and its older relatives) is shown as it is stored, as every
player does. Wider primaries are shown as a reference display would (BT.1886, gamma 2.4) and encoded as sRGB; colours that
sRGB lacks are clipped. High dynamic range is scaled so that diffuse white (203 cd/m², ITU-R BT.2408) becomes white, HLG after
its system gamma of 1.2; what is brighter is clipped.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from scail2.video.source import Note

PQ, HLG = 16, 18
_DIFFUSE_WHITE = 203.0  # cd/m²
_HLG_PEAK, _HLG_SYSTEM_GAMMA = 1000.0, 1.2
_STEPS = 65_536
_ROWS = 128
_SRGB_CURVE = 13
Chromaticities = tuple[tuple[float, float], ...]
_D65 = (0.3127, 0.3290)
# Chromaticities of red, green, blue and white.
_PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
}
# Exponents of encoding that are shown as stored: sRGB's 0.4545, BT.709's 0.51; primaries that differ by rounding alone.
_PLAIN_EXPONENTS, _SAME_PRIMARIES = (0.44, 0.52), 0.003
_GAMUT_NAMES = {4: "BT.470 M", 8: "film", 9: "BT.2020", 10: "XYZ", 11: "DCI-P3", 12: "Display P3", 22: "EBU 3213"}
_ORDINARY = (1, 2, 3, 5, 6, 7, 22)  # BT.709, unknown, and the primaries of PAL and NTSC, too close to tell apart
_UNUSUAL_CURVES = {8: "linear", 9: "logarithmic", 10: "logarithmic", 17: "SMPTE 428"}
_CONVERTED_MATRICES = (0, 1, 2, 4, 5, 6, 7, 9, 10)
_SOFTER = "for softer highlights convert it to SDR (BT.709) in an editor first"


def notes_on(primaries: int, transfer: int, matrix: int) -> list[Note]:
    """What is converted, and what is not, of a film with these tags."""
    notes = []
    if transfer in (PQ, HLG):
        name = "PQ" if transfer == PQ else "HLG"
        sentence = f"it is high dynamic range ({name}): diffuse white became white, brighter highlights are clipped"
        notes.append(Note(code="high_dynamic_range", message=sentence, fix=_SOFTER))
    elif transfer in _UNUSUAL_CURVES and transfer != 8:
        sentence = f"its {_UNUSUAL_CURVES[transfer]} transfer curve is not converted: contrast will be wrong"
        notes.append(Note(code="transfer", message=sentence, fix="export it from the editor as BT.709"))
    gamut = _GAMUT_NAMES.get(primaries, f"number {primaries}")
    if primaries in _PRIMARIES and primaries not in _ORDINARY:
        notes.append(Note(code="wide_gamut", message=f"its colours were converted from {gamut} to sRGB"))
    elif primaries not in _ORDINARY:
        sentence = f"its {gamut} primaries are not converted: colours will be a little off"
        notes.append(Note(code="wide_gamut", message=sentence, fix="export it from the editor as BT.709"))
    if matrix not in _CONVERTED_MATRICES:
        sentence = f"its colour matrix (number {matrix} of H.273) is not known here: colours will be wrong"
        notes.append(Note(code="matrix", message=sentence, fix="export it from the editor as BT.709"))
    return notes


# Pixels uint16 RGB(A), 65535 for white, to uint8 of the same shape.
ToBytes = Callable[[np.ndarray], np.ndarray]


def as_stored(picture: np.ndarray) -> np.ndarray:
    """Pixels that are sRGB already; see `ToBytes`."""
    return np.rint(picture / 257.0).astype(np.uint8)


class Conversion:
    """Pixels as their tags mean them, to sRGB. Two tables and a matrix: light of each stored step, then sRGB's steps.

    Args:
        light: linear light of each of the 65,536 steps, 1 for white.
        primaries: chromaticities (x, y) of red, green, blue and white.
        scene: whether the light is HLG's, before its system gamma.
    """

    def __init__(self, light: np.ndarray, primaries: "Chromaticities", *, scene: bool = False):
        self._light = light.astype(np.float32)
        self._matrix = _to_srgb(primaries).T.astype(np.float32)
        self._luminance = _to_xyz(primaries)[1].astype(np.float32) if scene else None
        self._shown = np.rint(255 * _srgb(np.linspace(0.0, 1.0, _STEPS))).astype(np.uint8)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """uint16 RGB(A) ``(H, W, 3 | 4)``, 65535 for white, to uint8 of the same shape; alpha is only scaled."""
        result = np.empty(picture.shape, np.uint8)
        for row in range(0, len(picture), _ROWS):  # a large picture's floats never exist at once
            strip = picture[row : row + _ROWS]
            light = self._light[strip[..., :3]]
            if self._luminance is not None:
                light *= (light @ self._luminance)[..., None] ** (_HLG_SYSTEM_GAMMA - 1)
                light *= _HLG_PEAK / _DIFFUSE_WHITE
            light = np.clip(light @ self._matrix, 0.0, 1.0)
            result[row : row + _ROWS, :, :3] = self._shown[np.rint(light * (_STEPS - 1)).astype(np.uint16)]
        if picture.shape[-1] == 4:
            result[..., 3] = np.rint(picture[..., 3] / 257.0)
        return result


@lru_cache(maxsize=4)
def conversion(primaries: int, transfer: int) -> Conversion | None:
    """What takes pixels with these tags to sRGB; None where they are shown as they are."""
    wide = primaries in _PRIMARIES and primaries not in _ORDINARY
    if not wide and transfer not in (PQ, HLG, 8):
        return None
    light = _light_of(np.linspace(0.0, 1.0, _STEPS), transfer)
    return Conversion(light, _PRIMARIES.get(primaries, _PRIMARIES[1]), scene=transfer == HLG)


@lru_cache(maxsize=4)
def measured_conversion(gamma: float | None, primaries: Chromaticities | None) -> Conversion | None:
    """The same for colours given by numbers: the exponent of encoding (about 1 / 2.2), chromaticities; None where not given.

    An exponent near that of sRGB, or of BT.709's camera curve (which FFmpeg writes), is shown as it is stored, as in films.
    """
    plain = gamma is None or _PLAIN_EXPONENTS[0] <= gamma <= _PLAIN_EXPONENTS[1]
    if primaries is None or np.abs(np.subtract(primaries, _PRIMARIES[1])).max() <= _SAME_PRIMARIES:
        primaries = _PRIMARIES[1]
        if plain:
            return None
    steps = np.linspace(0.0, 1.0, _STEPS)
    light = _light_of(steps, _SRGB_CURVE) if gamma is None or plain else steps ** (1 / gamma)
    return Conversion(light, primaries)


def _light_of(signal: np.ndarray, transfer: int) -> np.ndarray:
    """Linear light of a signal in 0 … 1, where 1 is white (of HLG: the scene's, before the system gamma)."""
    if transfer == HLG:
        a = 0.17883277
        b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
        return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = signal ** (1 / m2)
        return (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1) * (10_000 / _DIFFUSE_WHITE)
    if transfer == _SRGB_CURVE:
        return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    return signal ** {4: 2.2, 5: 2.8, 8: 1.0}.get(transfer, 2.4)


def _srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def _to_xyz(primaries: Chromaticities) -> np.ndarray:
    """RGB to XYZ ``(3, 3)``."""
    *colours, white = primaries
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in colours]).T
    x, y = white
    return columns * np.linalg.solve(columns, np.array([x / y, 1.0, (1 - x - y) / y]))


def _to_srgb(primaries: Chromaticities) -> np.ndarray:
    """Linear RGB to linear sRGB ``(3, 3)``; white stays white."""
    source, target = _to_xyz(primaries), _to_xyz(_PRIMARIES[1])
    return np.linalg.inv(target) @ _adapted(source, target) @ source


def _adapted(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """From one white to another, by Bradford's cone responses; of RGB to XYZ matrices."""
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    here, there = cones @ source.sum(axis=1), cones @ target.sum(axis=1)
    return np.linalg.inv(cones) @ np.diag(there / here) @ cones
