"""Files in."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from scail2.serving.access import Owner, ServiceOf
from scail2.serving.uploads import Upload

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])
Sha256 = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="SHA-256 of the file's bytes.")]


@router.post("", status_code=201)
async def receive(request: Request, service: ServiceOf, owner: Owner) -> dict[str, Any]:
    """Stores the body, the bytes of a picture, video or sound, under its SHA-256. Nothing else is sent: no name, no form."""
    return _told(await service.uploads.receive(owner, request.stream()))


@router.get("/{sha256}")
def facts(sha256: Sha256, service: ServiceOf, owner: Owner) -> dict[str, Any]:
    """What is known of a file you brought; 404 says that it must be sent."""
    return _told(service.uploads.find(owner, sha256))


@router.get("/{sha256}/content")
def content(sha256: Sha256, service: ServiceOf, owner: Owner) -> FileResponse:
    """The file itself."""
    return FileResponse(service.uploads.find(owner, sha256).path, headers={"X-Content-Type-Options": "nosniff"})


@router.delete("/{sha256}", status_code=204)
def delete(sha256: Sha256, service: ServiceOf, owner: Owner) -> None:
    """Forgets a file you brought, which makes room; 409 while a run of yours needs it."""
    service.uploads.delete(owner, sha256)


class Trim(BaseModel):
    """Which frames of a video."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"start": 16, "stop": 97}]})
    start: int = Field(ge=0, le=10**7)
    stop: int = Field(ge=1, le=10**7, description="One behind the last frame.")


@router.post("/{sha256}/trim", status_code=201)
def trim(sha256: Sha256, part: Trim, service: ServiceOf, owner: Owner) -> dict[str, Any]:
    """Frames [start, stop) of a video you brought, with their sound, as an upload of its own."""
    return _told(service.uploads.trim(owner, sha256, part.start, part.stop))


def _told(upload: Upload) -> dict[str, Any]:
    return {"id": upload.sha256, "format": upload.path.suffix.removeprefix("."), **upload.facts}
