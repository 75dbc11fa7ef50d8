"""Who is asking: tokens compared in constant time, and names of hosts and origins that a browser cannot be tricked with."""

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from scail2.serving.refusals import ForbiddenError, UnauthorizedError
from scail2.serving.settings import ServiceSettings, is_loopback

EVERYBODY = "local"


class Doorkeeper:
    """Decides whose a request is."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings

    def owner(self, headers: Mapping[str, str]) -> str:
        """The owner of whatever is asked for: a short hash of the token, which is never stored.

        Raises `UnauthorizedError` without a right token. Every token is compared whole, so time tells nothing.
        """
        if not self._settings.tokens:
            return EVERYBODY
        kind, _, given = headers.get("authorization", "").partition(" ")
        candidate = given.strip() if kind.lower() == "bearer" else headers.get("x-scail2-token", "")
        found = ""
        for token in self._settings.tokens:
            if hmac.compare_digest(token.encode(), candidate.encode("utf-8", "surrogateescape")):
                found = token
        if not found:
            raise UnauthorizedError("A token is needed: send it as `Authorization: Bearer TOKEN`.")
        return hashlib.sha256(found.encode()).hexdigest()[:16]

    def check_origin(self, headers: Mapping[str, str]) -> None:
        """Refuses what a page of another site sends, and, without tokens, names of this machine that are not loopback.

        The second is what DNS rebinding needs: a foreign name that leads here.
        """
        host = headers.get("host", "")
        name = _name(host)
        if not self._settings.tokens and not is_loopback(name):
            raise ForbiddenError(f"This service answers under its loopback address only, not as {name or 'nobody'}.")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise ForbiddenError("Pages of other sites may not use this service.")


def _name(host: str) -> str:
    """The host of ``host:port``, brackets of IPv6 removed."""
    return (urlsplit(f"//{host}").hostname or "") if host else ""
