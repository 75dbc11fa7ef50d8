"""What every route needs: the service, and whose request it is."""

from typing import Annotated

from fastapi import Depends, Path, Request

from scail2.serving.service import Service


def the_service(request: Request) -> Service:
    """The service of the application."""
    service: Service = request.app.state.service
    return service


def the_owner(request: Request) -> str:
    """Who asks; refuses wrong tokens, foreign pages and foreign host names."""
    doorkeeper = the_service(request).doorkeeper
    doorkeeper.check_origin(request.headers)
    return doorkeeper.owner(request.headers)


ServiceOf = Annotated[Service, Depends(the_service)]
Owner = Annotated[str, Depends(the_owner)]
RunId = Annotated[str, Path(pattern="^[0-9a-f]{16}$", description="The run's id.", examples=["0f3a5c7e9b1d2f4a"])]
