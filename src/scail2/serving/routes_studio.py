"""What the studio's page needs besides the runs: itself, the examples, what is on offer, inputs at the run's size."""

import asyncio
import zipfile
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.background import BackgroundTask
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from scail2.files.staging import Staging
from scail2.request.presets import PRESETS
from scail2.serving.access import Owner, RunId, ServiceOf
from scail2.serving.refusals import MissingError
from scail2.serving.routes_media import png, present

router = APIRouter()
Number = Annotated[int, Path(ge=0, le=10**7)]
PAGE = FilePath(__file__).parent / "studio"
# Name of a bundled example -> its mode.
EXAMPLES = {"animation": "animation", "replacement": "replacement", "duet": "animation"}
_POLICY = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; style-src 'self' 'unsafe-inline'"
_CHUNK = 1 << 20


@router.get("/", include_in_schema=False)
def home() -> RedirectResponse:
    """The page is what people want."""
    return RedirectResponse("/studio/")


class Page:
    """The page's files, with a policy that lets it load nothing from elsewhere and nobody frame it."""

    def __init__(self) -> None:
        self._files = StaticFiles(directory=PAGE, html=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", f"{_POLICY}; frame-ancestors 'none'".encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"cache-control", b"no-cache"),
                ]
            await send(message)

        await self._files(scope, receive, guarded)


@router.get("/v1/offers", tags=["studio"])
def offers(service: ServiceOf, owner: Owner) -> dict[str, Any]:
    """What a submission may name here."""
    settings = service.settings
    return {
        "models": list(settings.models),
        "loras": sorted(settings.loras),
        "presets": {name: {"tuned_for": preset.told_loras()} for name, preset in PRESETS.items()},
        "text": settings.sam3 is not None,
    }


@router.get("/v1/examples", tags=["studio"])
def examples(owner: Owner) -> dict[str, Any]:
    """The bundled examples."""
    return {"examples": list(EXAMPLES)}


@router.post("/v1/examples/{name}", tags=["studio"])
async def example(name: str, service: ServiceOf, owner: Owner) -> dict[str, str]:
    """Puts an example's picture and clip among your uploads; their hashes and its mode."""
    if name not in EXAMPLES:
        raise MissingError(f"There is no such example; there are {', '.join(EXAMPLES)}.")
    told = {"mode": EXAMPLES[name]}
    with resources.as_file(resources.files("scail2") / "assets" / "example" / name) as folder:
        for field, file in (("reference", "reference.png"), ("driving", "driving.mp4")):
            told[field] = (await service.uploads.receive(owner, _content(folder / file))).sha256
    return told


async def _content(path: FilePath) -> AsyncIterator[bytes]:
    yield await asyncio.to_thread(path.read_bytes)


@router.get("/v1/runs/{run}/inputs/reference.png", tags=["results"])
def reference(run: RunId, service: ServiceOf, owner: Owner) -> FileResponse:
    """The picture as the masks see it."""
    return present(service.view(owner, run).picture("masks/reference.png"), media_type="image/png")


@router.get("/v1/runs/{run}/inputs/driving/{frame}.png", tags=["results"])
def driving(run: RunId, frame: Number, service: ServiceOf, owner: Owner) -> Response:
    """One frame of the clip at the run's size and rate."""
    return png(service.view(owner, run).driving_frame(frame))


@router.get("/v1/runs/{run}/project.zip", tags=["results"])
def project(run: RunId, service: ServiceOf, owner: Owner) -> FileResponse:
    """The run directory and its film as one archive, to go on with on another machine."""
    view = service.view(owner, run)
    view.open()
    staging = Staging(service.settings.hidden / f"{run}.zip")
    try:
        with zipfile.ZipFile(staging.place, "w", zipfile.ZIP_STORED) as archive:
            for path in view.project_files():
                archive.write(path, path.relative_to(view.place.folder))
    except BaseException:
        staging.close()
        raise
    return FileResponse(
        staging.place, media_type="application/zip", filename=f"{run}.zip", background=BackgroundTask(staging.close)
    )
