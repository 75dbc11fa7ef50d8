"""What a service is told when it starts."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scail2.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much one client may ask for.

    Attributes:
        upload_bytes: of one file.
        stored_bytes: of all uploads of one token together.
        pixels: of one picture or frame.
        seconds: of one video.
        active_runs: queued and running jobs of one token.
        silence: seconds after which a client that sends nothing is given up.
    """

    upload_bytes: int = 2 * 2**30
    stored_bytes: int = 50 * 2**30
    pixels: int = 4096 * 4096
    seconds: float = 600.0
    active_runs: int = 20
    silence: float = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceSettings:
    """One service.

    Attributes:
        runs: folder of all runs, uploads and the queue.
        models: what clients may name as ``model``; the first is the default, and none means the embedded model alone.
        loras: name -> LoRA file (``PATH`` or ``PATH:STRENGTH``) that clients may name.
        sam3: weights of the segmenter SAM3, for runs that ask for ``text``.
        devices: one worker for each; None is the worker's own choice.
        tokens: clients must bring one of these; empty lets everybody in, on a loopback address only.
        ray: workers are Ray actors instead of processes of this machine.
    """

    runs: Path
    host: str = "127.0.0.1"
    port: int = 8420
    models: tuple[str, ...] = ()
    loras: Mapping[str, str] = field(default_factory=dict)
    sam3: str | None = None
    devices: tuple[str | None, ...] = (None,)
    tokens: tuple[str, ...] = ()
    ray: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.devices:
            raise InputError("A service needs one worker at least: name a device.")
        if not self.tokens and not is_loopback(self.host):
            raise InputError(
                f"{self.host} can be reached from other machines: set SCAIL2_TOKEN to a secret that clients must bring, or "
                "take --host 127.0.0.1."
            )
        if any(len(token) < 8 or not token.isascii() for token in self.tokens):
            raise InputError(
                "SCAIL2_TOKEN must have 8 ASCII characters at least (several tokens: commas between them)."
            )

    @property
    def hidden(self) -> Path:
        """Where the service keeps what is not a run."""
        return self.runs / ".service"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
