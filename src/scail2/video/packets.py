"""The coded pictures of a file as its packets list them (nothing is decoded), and whether their times can be believed.

A decoder gives pictures in the order in which they are shown. Times that contradict that order, that are missing or that
several pictures share are not presentation times, whatever the file calls them: such pictures are numbered by output order.
"""

import itertools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from scail2.errors import InputError
from scail2.video import rates
from scail2.video.source import MAX_FRAMES

NO_TIME = -(2**63)
_VP8_SHOWN = 0x10  # bit of a VP8 frame's first byte; hidden reference frames travel as packets of their own
_SPLIT = 1000  # parts of a tick, for pictures that share one
_FEW = 0.1  # share of pictures whose time may be another's too before that says that the clock is coarse
_RISING_GROUP = 4  # so many pictures in decoding order without one B-frame among them are looked at more closely


@dataclass(frozen=True, kw_only=True, slots=True)
class PacketTable:
    """The shown packets of a stream in decoding order: int64 ``(N,)`` ticks of its time base (``NO_TIME`` where there is
    none), and the positions of key frames, rising."""

    pts: np.ndarray
    dts: np.ndarray
    duration: np.ndarray
    keys: np.ndarray

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def has_times(self) -> bool:
        """Whether every picture has a time of its own."""
        return bool((self.pts != NO_TIME).all() and len(np.unique(self.pts)) == len(self.pts))

    def fall(self, time_base: Fraction) -> tuple[Fraction, Fraction] | None:
        """Where the clock of decoding falls back by more than a second, and by how many seconds: recordings put together."""
        known = self.dts[self.dts != NO_TIME]
        steps = np.diff(known)
        if not len(steps) or int(steps.min()) * time_base > -1:
            return None
        at = int(np.argmin(steps))
        return int(known[at] - known[0]) * time_base, -int(steps[at]) * time_base

    def rising_groups(self) -> list[tuple[int, int]]:
        """Groups of pictures [start, stop) whose times rise in decoding order: no B-frames, or times of decoding."""
        edges = [*self.keys.tolist(), len(self)]
        return [
            (start, stop)
            for start, stop in itertools.pairwise(edges)
            if stop - start >= _RISING_GROUP and (np.diff(self.pts[start:stop]) > 0).all()
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedFile:
    """Packet tables by stream index, and the latest time in seconds met in any stream."""

    tables: dict[int, PacketTable]
    clock_end: float


def scan(container: av.container.InputContainer, streams: Sequence[av.VideoStream], path: Path) -> ScannedFile:
    """Lists the packets of the video streams. Raises `InputError` for more pictures than anyone can mean."""
    columns = {stream.index: (array("q"), array("q"), array("q"), array("q")) for stream in streams}
    vp8 = {stream.index for stream in streams if stream.codec_context.codec.canonical_name == "vp8"}
    clock_end = 0.0
    for packet in container.demux():
        if packet.size == 0:
            continue
        time = packet.pts if packet.pts is not None else packet.dts
        if time is not None:
            clock_end = max(clock_end, float((time + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index not in columns or packet.is_discard:
            continue
        if packet.stream_index in vp8 and not bytes(packet)[0] & _VP8_SHOWN:
            continue
        pts, dts, duration, keys = columns[packet.stream_index]
        if packet.is_keyframe:
            keys.append(len(pts))
        pts.append(NO_TIME if packet.pts is None else packet.pts)
        dts.append(packet.dts if packet.dts is not None else pts[-1])
        duration.append(packet.duration or 0)
        if len(pts) > MAX_FRAMES:
            raise InputError(f"{path}: more than {MAX_FRAMES:,} pictures; cut the video into parts")
    tables = {index: _table(each) for index, each in columns.items()}
    return ScannedFile(tables=tables, clock_end=clock_end)


def _table(columns: Sequence[array]) -> PacketTable:
    pts, dts, duration, keys = (np.array(column, dtype=np.int64) for column in columns)
    return PacketTable(pts=pts, dts=dts, duration=duration, keys=keys)


def output_times(
    table: PacketTable, decoded: np.ndarray, time_base: Fraction, rate: Fraction | None
) -> tuple[np.ndarray, Fraction]:
    """When each picture is shown, for pictures in output order: int64 ticks ``(M,)``, rising, and their time base.

    The stored times are right as a set, only not in their order: the first picture gets the earliest. Where they are not
    one for each picture, the decoder's own are taken if they rise, else a constant rate.

    Args:
        table: the packets.
        decoded: the decoder's time of each picture, ``NO_TIME`` where it gave none.
        time_base: of both.
        rate: frames per second as the file announces it.
    """
    count = len(decoded)
    complete = [column for column in (table.pts, table.dts) if len(column) and (column != NO_TIME).all()]
    for stored in complete:
        times = np.sort(stored)
        if len(times) == count and (usual := _nearly_constant(times)):
            return times[0] + usual * np.arange(count, dtype=np.int64), time_base
        if len(times) == count and len(np.unique(times)) >= count // 2:
            return _spread(times, time_base)
    if (decoded != NO_TIME).all() and (np.diff(decoded) > 0).all():
        return decoded, time_base
    begin = int(min((column.min() for column in complete), default=0)) * time_base
    interval = 1 / rate if rate else rates.typical_interval(np.unique(complete[0])) * time_base if complete else 0
    interval = interval or 1 / rates.FALLBACK
    # Whole ticks of the interval; the beginning is rounded to one so that all are on one clock.
    return np.arange(count, dtype=np.int64) + round(begin / interval), Fraction(interval)


def _nearly_constant(times: np.ndarray) -> int:
    """The usual interval of rising times of which only a few are shared, where most keep to it; else 0."""
    steps = np.diff(np.unique(times))
    shared = len(times) - len(steps) - 1
    if not 0 < shared <= len(times) * _FEW:
        return 0
    usual = int(np.median(steps))
    return usual if (np.abs(steps - usual) <= 1).mean() >= 1 - 2 * _FEW else 0


def _spread(times: np.ndarray, time_base: Fraction) -> tuple[np.ndarray, Fraction]:
    """Rising times; pictures that share one share the way to the next evenly."""
    distinct, counts = np.unique(times, return_counts=True)
    if (counts == 1).all():
        return distinct, time_base
    steps = np.append(np.diff(distinct), max(1, rates.typical_interval(distinct)))
    ticks = [
        t * _SPLIT + step * _SPLIT * k // n
        for t, step, n in zip(distinct, steps, counts, strict=True)
        for k in range(n)
    ]
    return np.array(ticks, dtype=np.int64), time_base / _SPLIT
