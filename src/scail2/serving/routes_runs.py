"""Runs: submit, watch, cancel, go on, change, delete."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from scail2.serving.access import Owner, RunId, ServiceOf
from scail2.serving.events import event_stream
from scail2.serving.queue import Action
from scail2.serving.refusals import MissingError

router = APIRouter(prefix="/v1/runs", tags=["runs"])

_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
Priority = Annotated[int, Field(ge=-10, le=10, description="Among your own runs: higher first.")]


class Submission(BaseModel):
    """A new run."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"settings": {"mode": "animation", "reference": _HASH, "driving": _HASH, "seed": 7}, "action": "render"}
            ]
        },
    )
    settings: dict[str, Any] = Field(
        description="Fields of AnimationRequest; files are hashes of uploads; `format` is the film's suffix."
    )
    action: Literal["render", "plan"] = Field("render", description="plan: masks, sizes and warnings only.")
    priority: Priority = 0


class Changes(BaseModel):
    """Other settings for a run; null takes one back."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"settings": {"seed": 8}}]})
    settings: dict[str, Any]
    action: Literal["render", "plan"] = Field("render", description="plan: make only masks and plan anew.")
    priority: Priority = 0


class Again(BaseModel):
    """One segment again."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"segment": 3, "seed": 11}]})
    segment: int = Field(ge=0, le=10**6, strict=True)
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="New noise; without it the segment's own.")
    cascade: bool = Field(False, description="Also render everything after it again.")
    priority: Priority = 0


@router.post("", status_code=201)
def submit(
    submission: Submission,
    service: ServiceOf,
    owner: Owner,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> dict[str, Any]:
    """Checks and queues a run. The same `Idempotency-Key` again gives the same run and 200."""
    row, new = service.submit(
        owner, submission.settings, Action(submission.action), submission.priority, idempotency_key
    )
    response.status_code = 201 if new else 200
    return service.summary(owner, row.id)


@router.get("")
def listing(
    service: ServiceOf,
    owner: Owner,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[float | None, Query(description="`created` of the last one seen, in seconds.")] = None,
) -> dict[str, Any]:
    """Your runs, newest first."""
    rows = service.queue.runs(owner, limit=limit, before=before)
    told = [service.summary(owner, row.id) for row in rows]
    return {"runs": told, "next": rows[-1].created if len(rows) == limit else None}


@router.get("/{run}")
def state(run: RunId, service: ServiceOf, owner: Owner) -> dict[str, Any]:
    """State of the run, its job, its plan."""
    return service.summary(owner, run)


@router.delete("/{run}", status_code=204)
def delete(run: RunId, service: ServiceOf, owner: Owner) -> None:
    """Deletes a run that nobody works on, with everything in it."""
    service.delete(owner, run)


@router.post("/{run}/cancel")
def cancel(run: RunId, service: ServiceOf, owner: Owner) -> dict[str, Any]:
    """Ends a waiting job at once and a running one at its next step; finished segments stay."""
    service.queue.run(run, owner)
    service.dispatcher.cancel(run)
    return service.summary(owner, run)


@router.post("/{run}/resume", status_code=202)
def resume(run: RunId, service: ServiceOf, owner: Owner) -> dict[str, Any]:
    """Finishes what was cancelled, failed or planned; also takes up masks that were repainted."""
    # Rendering a run that exists does exactly what is missing; unlike `resume` it also begins one that never began.
    service.add(owner, run, Action.RENDER, {}, 0)
    return service.summary(owner, run)


@router.post("/{run}/plan", status_code=202)
def plan_again(run: RunId, service: ServiceOf, owner: Owner) -> dict[str, Any]:
    """Makes masks and plan again where they are missing or stale, without rendering."""
    service.add(owner, run, Action.PLAN, {}, 0)
    return service.summary(owner, run)


@router.get("/{run}/plan")
def plan(run: RunId, service: ServiceOf, owner: Owner) -> dict[str, Any]:
    """Size, rate, segments, findings; 404 before it is made."""
    told = service.view(owner, run).plan()
    if told is None:
        raise MissingError(f"The run {run} has no plan yet.")
    return told


@router.post("/{run}/change", status_code=202)
def change(run: RunId, changes: Changes, service: ServiceOf, owner: Owner) -> dict[str, Any]:
    """Other settings: whatever does not depend on them is kept, the rest rendered again."""
    service.change(owner, run, changes.settings, Action(changes.action), changes.priority)
    return service.summary(owner, run)


@router.post("/{run}/rerender", status_code=202)
def rerender(run: RunId, again: Again, service: ServiceOf, owner: Owner) -> dict[str, Any]:
    """Renders one finished segment again and rewrites the film."""
    if not service.is_active(run):  # else the queue says so
        service.view(owner, run).refuse_unrendered(again.segment)
    arguments = {"segment": again.segment, "seed": again.seed, "cascade": again.cascade}
    service.add(owner, run, Action.RERENDER, arguments, again.priority)
    return service.summary(owner, run)


@router.get("/{run}/events")
def events(
    run: RunId,
    service: ServiceOf,
    owner: Owner,
    last_event_id: Annotated[int | None, Header(ge=0, le=10**12)] = None,
) -> StreamingResponse:
    """Server-sent events: the run's journal from the beginning (or after `Last-Event-ID`), progress, then `end`."""
    view = service.view(owner, run)
    stream = event_stream(
        view.place.run / "journal.jsonl",
        service.settings.runs,
        after=last_event_id or 0,
        progress=lambda: service.dispatcher.progress(run),
        active=lambda: service.is_active(run),
    )
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
