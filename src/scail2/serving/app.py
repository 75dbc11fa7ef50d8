"""The HTTP application: refusals become statuses in one place, bodies are bounded in another."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from scail2.errors import InputError, short
from scail2.files.disk_errors import reason
from scail2.serving import routes_health, routes_masks, routes_media, routes_runs, routes_studio, routes_uploads
from scail2.serving.refusals import RefusalError
from scail2.serving.sentences import for_clients
from scail2.serving.service import Service

DESCRIPTION = """Character animation runs: upload a picture and a clip, submit a run, watch it, fetch the film, render any
segment again. Errors are `{"error": "one sentence"}`."""
# Of everything but uploads and masks, which have limits of their own.
_BODY_BYTES = 1 << 20


def build_app(service: Service) -> FastAPI:
    """The application over a service that somebody else starts and stops."""
    app = FastAPI(title="scail2", description=DESCRIPTION, version=metadata.version("scail2"))
    app.state.service = service
    for routes in (routes_health, routes_uploads, routes_runs, routes_masks, routes_media, routes_studio):
        app.include_router(routes.router)
    app.mount("/studio", routes_studio.Page())
    _translate_errors(app, service)
    app.add_middleware(BoundedBodies, silence=service.settings.limits.silence)
    return app


def _translate_errors(app: FastAPI, service: Service) -> None:
    def told(status: int, sentence: str) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
        return JSONResponse({"error": for_clients(sentence, service.settings.runs)}, status, headers)

    @app.exception_handler(InputError)
    async def refused(_: Request, error: InputError) -> JSONResponse:
        return told(error.status if isinstance(error, RefusalError) else 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "string_pattern_mismatch" and first["loc"][0] == "path":
            kind = {"run": "run", "sha256": "upload"}.get(str(first["loc"][1]), "thing")
            return told(404, f"There is no such {kind}: {short(first['input'])}.")
        if first["type"] == "json_invalid":
            return told(422, f"The body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}.")
        if first["loc"] == ("body",):
            return told(422, "The body is no JSON object: send one, as Content-Type: application/json.")
        where = ".".join(str(each) for each in first["loc"] if each != "body")
        return told(422, f"{where or 'The body'}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> JSONResponse:
        return told(error.status_code, f"{error.detail}.")

    @app.exception_handler(OSError)
    async def disk(_: Request, error: OSError) -> JSONResponse:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return told(507 if full else 500, f"The service's disk: {reason(error)}.")


Receive = Callable[[], Awaitable[dict[str, Any]]]


class BoundedBodies:
    """Refuses bodies that are too large or do not come, before anything reads them whole."""

    def __init__(self, app: Any, *, silence: float) -> None:
        self._app, self._silence = app, silence

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Any) -> None:
        """The ASGI interface."""
        if scope["type"] != "http" or _is_streamed(scope):
            await self._app(scope, receive, send)
            return
        body = await self._read(receive)
        if isinstance(body, JSONResponse):
            await body(scope, receive, send)
            return
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> dict[str, Any]:
            return next(given, None) or await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | JSONResponse:
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._silence):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return JSONResponse({"error": "The client went away."}, 400)
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > _BODY_BYTES:
                        return JSONResponse({"error": f"The body has more than {_BODY_BYTES:,} bytes."}, 413)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            return JSONResponse({"error": f"The body did not come within {self._silence:g} seconds."}, 408)


def _is_streamed(scope: dict[str, Any]) -> bool:
    """Whether a route reads its body itself, chunk by chunk."""
    path, method = scope["path"], scope["method"]
    return (method == "POST" and path == "/v1/uploads") or (method == "PUT" and "/masks/" in path)
