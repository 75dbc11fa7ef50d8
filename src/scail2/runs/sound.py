"""What will become of the driving video's sound, found out before anything is rendered."""

from collections.abc import Sequence
from typing import Any

from scail2.perception.checks import findings
from scail2.perception.checks.findings import Finding, Severity
from scail2.request.animation import AnimationRequest
from scail2.runs.planning import RunPlan
from scail2.video import Codec, VideoInfo, codec_for, sound


def output_codec(request: AnimationRequest) -> Codec:
    """The requested codec, or the one the output's name asks for; `InputError` for an unknown one."""
    return Codec.parse(request.codec) if request.codec else codec_for(request.output)


def sound_findings(request: AnimationRequest, plan: RunPlan, info: VideoInfo) -> list[Finding]:
    """Findings about the sound that this run would carry over; its whole track is decoded once."""
    if not request.audio or not info.has_audio:
        return []
    if output_codec(request) is Codec.PNG:
        return [findings.info("sound", f"{info.path.name}: a folder of pictures has no sound; it is left out")]
    return findings.of_file(info.path.name, sound.notes_on(info.path, info.start, plan.total / plan.fps))


def with_findings(report: dict[str, Any], found: Sequence[Finding]) -> dict[str, Any]:
    """A stored preflight report with more findings, the most serious first."""
    rank = [each.value for each in Severity]
    every = [*report["findings"], *(each.to_json() for each in found)]
    return report | {"findings": sorted(every, key=lambda each: rank.index(each["severity"]))}
