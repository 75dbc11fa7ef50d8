"""What can be known of a film before anything is rendered: its form, its place, and whose film stands there now."""

from contextlib import suppress
from pathlib import Path

from scail2.errors import InputError
from scail2.files.storage import stands
from scail2.request.animation import AlphaMask, AnimationRequest
from scail2.runs.ledger import StageLedger
from scail2.runs.planning import RunPlan
from scail2.video import Codec, VideoWriter, codec_for
from scail2.video.formats import check_form
from scail2.video.writer import check_target


def output_codec(request: AnimationRequest) -> Codec:
    """The requested codec, or the one the output's name asks for; `InputError` for an unknown one."""
    if request.codec:
        return Codec.parse(request.codec)
    return codec_for(request.output, alpha=request.alpha is not AlphaMask.OFF)


def check_name(request: AnimationRequest) -> None:
    """Refuses an output whose name, codec and settings contradict each other, or a folder that is not one's to replace."""
    codec = output_codec(request)
    check_form(request.output, codec, alpha=request.alpha is not AlphaMask.OFF)
    if isinstance(request.audio, Path) and not codec.keeps_sound:
        raise InputError(
            f"{request.output}: {codec} has no sound, but --audio names {request.audio}; name the output .mp4, .mov, .mkv or "
            ".webm, or leave --audio out"
        )
    for path in request.outputs:
        check_target(path, codec)


def check_place(request: AnimationRequest, plan: RunPlan) -> None:
    """Refuses an output that cannot be written at this size and rate to this place; leaves nothing behind."""
    for path in request.outputs:
        absent = [folder for folder in path.parents if not folder.exists()]  # the innermost first
        try:
            VideoWriter(path, plan.fps, (plan.height, plan.width), codec=output_codec(request)).abort()
        finally:
            for folder in absent:
                with suppress(OSError):
                    folder.rmdir()


def refuse_foreign(request: AnimationRequest, ledger: StageLedger) -> None:
    """Refuses to replace what this run neither wrote nor was asked to write over."""
    for path in request.outputs:
        if stands(path) and not ledger.may_replace(path):
            raise InputError(
                f"{path} exists and is not the film that this run wrote there: add --overwrite to replace it, or choose another "
                "--output."
            )


def refuse_lost(path: Path, ledger: StageLedger) -> None:
    """The same for a film that was the run's own, or was nobody's, when the run began."""
    if not ledger.may_replace(path):
        raise InputError(
            f"{path} is not the film that this run wrote there (somebody else's, or another run's): move it elsewhere and "
            "resume, or resume with --overwrite to replace it, or with another --output."
        )
