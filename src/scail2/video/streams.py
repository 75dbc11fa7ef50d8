"""Which of a file's tracks is the film, and which its sound: what can be decoded and the file calls its default, no cover."""

from collections.abc import Mapping, Sequence

import av
from av.stream import Disposition

from scail2.video.packets import PacketTable
from scail2.video.source import Note

_COVER = Disposition.attached_pic | Disposition.timed_thumbnails
# Sound for some listeners; taken only if the file calls it its default or has no other.
_SPECIAL_SOUND = (
    Disposition.comment
    | Disposition.karaoke
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
    | Disposition.descriptions
)


def codec_name(stream: av.stream.Stream) -> str | None:
    """The codec's own name whatever decoder reads it (``"mp3"`` for FFmpeg's ``mp3float``); None if it is unknown here."""
    return stream.codec_context.codec.canonical_name if stream.codec_context is not None else None


def films(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Video tracks that can be decoded and are not marked as covers."""
    return [s for s in container.streams.video if not s.disposition & _COVER and s.codec_context is not None]


def ranked(streams: Sequence[av.VideoStream], tables: Mapping[int, PacketTable]) -> list[av.VideoStream]:
    """The likeliest film first: more than one picture, then the file's default, then the first. Those without pictures are
    left out."""
    held = [stream for stream in streams if len(tables[stream.index])]
    return sorted(held, key=lambda s: (len(tables[s.index]) == 1, not s.disposition & Disposition.default, s.index))


def sound_of(container: av.container.InputContainer) -> av.audio.stream.AudioStream | None:
    """The sound track that a player would take; None if there is none that can be decoded."""
    known = [stream for stream in container.streams.audio if stream.codec_context is not None]
    rank = {s.index: (not s.disposition & Disposition.default, bool(s.disposition & _SPECIAL_SOUND)) for s in known}
    return min(known, key=lambda s: (*rank[s.index], s.index), default=None)


def passed_over_pictures(
    container: av.container.InputContainer, chosen: av.VideoStream, tables: Mapping[int, PacketTable]
) -> list[Note]:
    """A note where the film is not the file's only video track."""
    others = [_told(stream, tables) for stream in container.streams.video if stream.index != chosen.index]
    if not others:
        return []
    sentence = f"track {chosen.index} ({codec_name(chosen)}, {_count(len(tables[chosen.index]))}) is the film"
    return [Note(code="track", message=f"{sentence}; passed over: {', '.join(others)}")]


def _told(stream: av.VideoStream, tables: Mapping[int, PacketTable]) -> str:
    count = _count(len(tables[stream.index])) if stream.index in tables else "a cover"
    return f"track {stream.index} ({codec_name(stream) or 'unknown codec'}, {count})"


def _count(pictures: int) -> str:
    return "1 picture" if pictures == 1 else f"{pictures} pictures"


def passed_over_sound(container: av.container.InputContainer) -> list[Note]:
    """A note where a file has several sound tracks, or only such as cannot be decoded."""
    streams, chosen = container.streams.audio, sound_of(container)
    if streams and chosen is None:
        sentence = "the codec of its sound is unknown here: the film will be silent"
        return [
            Note(
                code="sound", message=sentence, fix="convert the sound first (ffmpeg -i IN -c:v copy -c:a aac OUT.mkv)"
            )
        ]
    if chosen is None:
        return []
    others = [f"track {s.index} ({_sound(s)})" for s in streams if s.index != chosen.index]
    if not others:
        return []
    sentence = f"track {chosen.index} ({_sound(chosen)}) is its sound; passed over: {', '.join(others)}"
    return [Note(code="track", message=sentence)]


def _sound(stream: av.audio.stream.AudioStream) -> str:
    told = [codec_name(stream) or "unknown codec", stream.language if stream.language not in (None, "und") else ""]
    told.append("default" if stream.disposition & Disposition.default else "")
    return ", ".join(part for part in told if part)
