"""The HTTP server: one process, one socket, a clean end."""

import socket
from collections.abc import Callable

import uvicorn

from scail2.errors import InputError
from scail2.files.disk_errors import reason
from scail2.serving.app import build_app
from scail2.serving.service import Service
from scail2.serving.settings import ServiceSettings

# Watching a run holds a connection; more of them than this are refused with 503.
_CONNECTIONS = 512


def listen(
    settings: ServiceSettings, *, tell: Callable[[str], None], opened: Callable[[str], None] = lambda _: None
) -> None:
    """Serves until TERM or Ctrl-C; workers stop at their next step, and what they did is kept.

    ``opened`` is called with the address once it answers.

    Raises:
        InputError: the address is in use or may not be used; the folder of runs is another service's.
    """
    with bound(settings) as place, Service(settings) as service:
        host, port = place.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        tell(f"Listening on {address} (studio: /studio/, documentation: /docs); runs are in {settings.runs}.")
        # The socket listens already: what comes early waits for the first answer.
        place.listen()
        opened(address)
        config = uvicorn.Config(
            build_app(service),
            log_level="warning",
            access_log=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=5,
            server_header=False,
        )
        uvicorn.Server(config).run(sockets=[place])


def bound(settings: ServiceSettings) -> socket.socket:
    """A listening socket."""
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        place = socket.socket(family, socket.SOCK_STREAM)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((settings.host, settings.port))
    except OSError as error:
        raise InputError(f"Cannot listen on {settings.host}:{settings.port}: {reason(error)}.") from error
    return place
