"""What will become of the driving video's sound, found out before anything is rendered."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scail2.perception.checks import findings
from scail2.perception.checks.findings import Finding, Severity
from scail2.request.animation import AnimationRequest
from scail2.runs.film import output_codec
from scail2.runs.planning import RunPlan
from scail2.video import VideoInfo, sound


def sound_findings(request: AnimationRequest, plan: RunPlan, info: VideoInfo) -> list[Finding]:
    """Findings about the sound that this run would carry over; its whole track is decoded once.

    Raises:
        InputError: a soundtrack was named that has no sound.
    """
    seconds = plan.total / plan.fps
    if isinstance(request.audio, Path):
        sound.refuse_silent(request.audio)
        source = sound.sound_source(request.audio)
        assert source is not None
        return findings.of_file(request.audio.name, sound.notes_on(request.audio, source.begin, seconds))
    if not request.audio or not info.has_audio:
        return []
    codec = output_codec(request)
    if not codec.keeps_sound:
        return [findings.info("sound", f"{info.path.name}: its sound is left out, because {codec} has none")]
    return findings.of_file(info.path.name, sound.notes_on(info.path, info.start, seconds))


def with_findings(report: dict[str, Any], found: Sequence[Finding]) -> dict[str, Any]:
    """A stored preflight report with more findings, the most serious first."""
    rank = [each.value for each in Severity]
    every = [*report["findings"], *(each.to_json() for each in found)]
    return report | {"findings": sorted(every, key=lambda each: rank.index(each["severity"]))}
