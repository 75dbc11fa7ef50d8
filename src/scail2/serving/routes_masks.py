"""Masks: look at them, repaint them."""

from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from scail2.files.staging import Staging
from scail2.serving.access import Owner, RunId, ServiceOf
from scail2.serving.mask_views import MaskView
from scail2.serving.refusals import BusyError, TooLargeError
from scail2.serving.routes_media import png
from scail2.serving.service import Service

router = APIRouter(prefix="/v1/runs/{run}/masks", tags=["masks"])
Frame = Annotated[int, Path(ge=0, le=10**7)]
_PNG_BYTES = 32 * 2**20


@router.get("")
def facts(run: RunId, service: ServiceOf, owner: Owner) -> dict[str, Any]:
    """Size, palette, characters, who moves whom."""
    return MaskView(service.view(owner, run)).facts()


@router.get("/reference.png")
def reference(run: RunId, service: ServiceOf, owner: Owner) -> Response:
    """The reference's mask in palette colours."""
    return png(MaskView(service.view(owner, run)).reference())


@router.get("/driving/{frame}.png")
def driving(run: RunId, frame: Frame, service: ServiceOf, owner: Owner) -> Response:
    """One frame of the driving mask."""
    return png(MaskView(service.view(owner, run)).driving(frame))


@router.put("/reference.png", status_code=204)
async def put_reference(run: RunId, request: Request, service: ServiceOf, owner: Owner) -> None:
    """Replaces the reference's mask: a PNG of the same size in palette colours. `resume` renders what depends on it."""
    await _put(request, service, owner, run, None)


@router.put("/driving/{frame}.png", status_code=204)
async def put_driving(
    run: RunId,
    frame: Frame,
    request: Request,
    service: ServiceOf,
    owner: Owner,
    through: Annotated[
        int | None, Query(ge=0, le=10**7, description="Paint the same on every frame up to this.")
    ] = None,
) -> None:
    """Replaces one frame of the driving mask."""
    await _put(request, service, owner, run, frame, through)


async def _put(
    request: Request, service: Service, owner: str, run: str, frame: int | None, through: int | None = None
) -> None:
    view = await run_in_threadpool(service.view, owner, run)
    if await run_in_threadpool(service.is_active, run):
        raise BusyError(f"The run {run} is being worked on: wait for it, or cancel it first.")
    with Staging(service.settings.hidden / "mask.png") as staging:
        size = 0
        with staging.place.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > _PNG_BYTES:
                    raise TooLargeError(f"The mask has more than {_PNG_BYTES:,} bytes.")
                file.write(chunk)
        await run_in_threadpool(_store, MaskView(view), frame, through, staging.place)


def _store(masks: MaskView, frame: int | None, through: int | None, painted: FilePath) -> None:
    if frame is None:
        masks.put_reference(painted)
    else:
        masks.put_driving(frame, painted, through=through)
