"""Films, frames and pictures out."""

import io
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi.responses import FileResponse
from PIL import Image

from scail2.serving.access import Owner, RunId, ServiceOf

router = APIRouter(prefix="/v1/runs/{run}", tags=["results"])
Number = Annotated[int, Path(ge=0, le=10**7)]


@router.get("/result")
def result(run: RunId, service: ServiceOf, owner: Owner) -> FileResponse:
    """The finished film; answers to `Range`, so that players can seek."""
    film = service.view(owner, run).film()
    return present(film, filename=f"{run}{film.suffix}", content_disposition_type="inline")


@router.get("/manifest")
def manifest(run: RunId, service: ServiceOf, owner: Owner) -> dict[str, Any]:
    """Everything that says what the film is, with hashes."""
    return service.manifest(owner, run)


@router.get("/segments")
def segments(run: RunId, service: ServiceOf, owner: Owner) -> dict[str, Any]:
    """Finished segments, as they finish."""
    return {"segments": service.view(owner, run).segments()}


@router.get("/segments/{index}.mp4")
def segment(run: RunId, index: Number, service: ServiceOf, owner: Owner) -> FileResponse:
    """One finished segment as a film."""
    return present(service.view(owner, run).segment_film(index), media_type="video/mp4")


@router.get("/frames/{number}.png")
def frame(run: RunId, number: Number, service: ServiceOf, owner: Owner) -> Response:
    """One rendered frame, lossless, counted from 0 in the output."""
    return png(service.view(owner, run).frame(number))


@router.get("/plan.png")
def contact_sheet(run: RunId, service: ServiceOf, owner: Owner) -> FileResponse:
    """Reference, frames and masks on one sheet."""
    return present(service.view(owner, run).picture("masks/contact_sheet.png"), media_type="image/png")


@router.get("/drift.png")
def drift(run: RunId, service: ServiceOf, owner: Owner) -> FileResponse:
    """How colours and sharpness go over the segments."""
    return present(service.view(owner, run).picture("drift.png"), media_type="image/png")


def present(path: FilePath, **given: Any) -> FileResponse:
    """A file that a later job replaces: browsers ask whether theirs is still the one, where they would guess by its age."""
    return FileResponse(path, headers={"Cache-Control": "no-cache"}, **given)


def png(pixels: Any) -> Response:
    """Pixels uint8 (H, W, 3) as a PNG response."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return Response(buffer.getvalue(), media_type="image/png", headers={"Cache-Control": "no-store"})
