"""`Client`: a service's runs from Python, with the same names as its addresses."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from scail2.errors import InputError
from scail2.files.staging import atomic_file
from scail2.serving.submissions import ONE_FILE, SEVERAL_FILES

_CHUNK = 1 << 20
_UNFINISHED = ("queued", "running")


class ServiceError(InputError):
    """The service refused: its sentence, and the HTTP status."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """A run as the service told it.

    Attributes:
        id: the run's id.
        job: state of its latest job: queued, running, finished, failed, cancelled; None without one.
        failure: why that failed.
        run: what `scail2 status --json` tells, None before anything is there.
        plan: what `scail2 plan --json` tells, None before it is made.
        progress: the latest passing event (step, masks, writing).
        told: everything, as it came.
    """

    id: str
    job: str | None
    failure: str | None
    run: Mapping[str, Any] | None
    plan: Mapping[str, Any] | None
    progress: Mapping[str, Any]
    told: Mapping[str, Any]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """From the service's JSON."""
        job = told.get("job") or {}
        return cls(
            id=told["id"],
            job=job.get("state"),
            failure=job.get("failure"),
            run=told.get("run"),
            plan=told.get("plan"),
            progress=told.get("progress") or {},
            told=told,
        )

    @property
    def is_active(self) -> bool:
        """Whether a job waits or runs."""
        return self.job in _UNFINISHED


class Client:
    """Speaks to one service.

    Args:
        address: e.g. ``http://127.0.0.1:8420``.
        token: where the service wants one.
        timeout: seconds without a byte before a call fails.
        transport: for tests, instead of the network.

    Every method raises `ServiceError` with the service's sentence, and `httpx.HTTPError` where it cannot be reached.
    """

    def __init__(
        self,
        address: str = "http://127.0.0.1:8420",
        *,
        token: str | None = None,
        timeout: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=address, headers=headers, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends its connections."""
        self._http.close()

    def upload(self, path: str | Path) -> str:
        """Brings a file, unless the service has it from you already; its id."""
        path = Path(path)
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_CHUNK):
                digest.update(block)
        if self._http.get(f"/v1/uploads/{digest.hexdigest()}").status_code == 200:
            return digest.hexdigest()
        with path.open("rb") as file:
            told = self._json("POST", "/v1/uploads", content=iter(lambda: file.read(_CHUNK), b""))
        return str(told["id"])

    def delete_upload(self, upload: str) -> None:
        """Forgets a file that was brought, which makes room for others; refused while a run needs it."""
        self._check(self._http.delete(f"/v1/uploads/{upload}"))

    def trim(self, upload: str, start: int, stop: int) -> str:
        """Frames [start, stop) of an uploaded video, with their sound, as an upload of its own; its id."""
        return str(self._json("POST", f"/v1/uploads/{upload}/trim", json={"start": start, "stop": stop})["id"])

    def submit(
        self, *, action: str = "render", priority: int = 0, idempotency_key: str | None = None, **settings: Any
    ) -> RunState:
        """Uploads the files among the settings (fields of `AnimationRequest`) and queues a run.

        ``action="plan"`` makes masks and plan only; ``format`` is the film's suffix.
        """
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        body = {"settings": self._with_uploads(settings), "action": action, "priority": priority}
        return RunState.of(self._json("POST", "/v1/runs", json=body, headers=headers))

    def runs(self, *, limit: int = 50, before: float | None = None) -> list[RunState]:
        """Your runs, newest first."""
        asked = {"limit": limit} | ({} if before is None else {"before": before})
        return [RunState.of(each) for each in self._json("GET", "/v1/runs", params=asked)["runs"]]

    def state(self, run: str) -> RunState:
        """How a run stands."""
        return RunState.of(self._json("GET", f"/v1/runs/{run}"))

    def plan(self, run: str) -> dict[str, Any]:
        """Size, rate, segments and findings."""
        return self._json("GET", f"/v1/runs/{run}/plan")

    def wait(self, run: str, *, timeout: float | None = None, every: float = 0.5) -> RunState:
        """Waits until no job of the run waits or runs. Raises `TimeoutError`."""
        end = None if timeout is None else time.monotonic() + timeout
        while (state := self.state(run)).is_active:
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"The run {run} is still {state.job}.")
            time.sleep(every)
        return state

    def events(self, run: str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """The run's events as they happen, from line ``after`` of its journal on, until its job ends."""
        headers = {"Last-Event-ID": str(after)} if after else {}
        with self._http.stream("GET", f"/v1/runs/{run}/events", headers=headers) as response:
            self._check(response)
            kind = ""
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data" and kind != "end":
                    yield json.loads(value)

    def cancel(self, run: str) -> RunState:
        """Stops the run's job at its next step."""
        return RunState.of(self._json("POST", f"/v1/runs/{run}/cancel"))

    def resume(self, run: str) -> RunState:
        """Goes on with what was stopped, failed or only planned; repainted masks are taken up."""
        return RunState.of(self._json("POST", f"/v1/runs/{run}/resume"))

    def change(self, run: str, *, action: str = "render", **settings: Any) -> RunState:
        """Other settings; what depends on them is rendered (or, with ``action="plan"``, planned) again; None takes one back."""
        body = {"settings": self._with_uploads(settings), "action": action}
        return RunState.of(self._json("POST", f"/v1/runs/{run}/change", json=body))

    def rerender(self, run: str, segment: int, *, seed: int | None = None, cascade: bool = False) -> RunState:
        """Renders a finished segment again."""
        body = {"segment": segment, "seed": seed, "cascade": cascade}
        return RunState.of(self._json("POST", f"/v1/runs/{run}/rerender", json=body))

    def delete(self, run: str) -> None:
        """Deletes a run nobody works on."""
        self._check(self._http.delete(f"/v1/runs/{run}"))

    def segments(self, run: str) -> list[dict[str, Any]]:
        """Finished segments."""
        return list(self._json("GET", f"/v1/runs/{run}/segments")["segments"])

    def frame(self, run: str, number: int) -> bytes:
        """A rendered frame as PNG."""
        return self._bytes(f"/v1/runs/{run}/frames/{number}.png")

    def segment(self, run: str, index: int) -> bytes:
        """A finished segment as mp4."""
        return self._bytes(f"/v1/runs/{run}/segments/{index}.mp4")

    def masks(self, run: str) -> dict[str, Any]:
        """Size, palette and characters of the masks."""
        return self._json("GET", f"/v1/runs/{run}/masks")

    def mask(self, run: str, frame: int | None = None) -> bytes:
        """The mask of a driving frame, or of the reference, as PNG."""
        return self._bytes(f"/v1/runs/{run}/masks/{_mask_name(frame)}")

    def put_mask(self, run: str, png: bytes, frame: int | None = None, *, through: int | None = None) -> None:
        """Replaces the mask of a driving frame (painting the same on all up to ``through``), or of the reference."""
        asked = {} if through is None else {"through": through}
        self._check(self._http.put(f"/v1/runs/{run}/masks/{_mask_name(frame)}", content=png, params=asked))

    def manifest(self, run: str) -> dict[str, Any]:
        """What the film is, with hashes."""
        return self._json("GET", f"/v1/runs/{run}/manifest")

    def download(self, run: str, path: str | Path) -> Path:
        """Writes the finished film to ``path``, whole or not at all."""
        with self._http.stream("GET", f"/v1/runs/{run}/result") as response:
            self._check(response)
            with atomic_file(path) as file:
                for chunk in response.iter_bytes(_CHUNK):
                    file.write(chunk)
        return Path(path)

    def _with_uploads(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        values = dict(settings)
        for name in ONE_FILE & values.keys():
            if isinstance(values[name], str | Path):
                values[name] = self._brought(values[name])
        for name in SEVERAL_FILES & values.keys():
            given = values[name]
            values[name] = [self._brought(each) for each in ([given] if isinstance(given, str | Path) else given or ())]
        return values

    def _brought(self, given: str | Path) -> str:
        """The id of a file of this machine, or an id as it is."""
        if isinstance(given, str) and len(given) == 64 and not Path(given).exists():
            return given
        return self.upload(given)

    def _json(self, method: str, where: str, **sent: Any) -> dict[str, Any]:
        response = self._http.request(method, where, **sent)
        self._check(response)
        told: dict[str, Any] = response.json()
        return told

    def _bytes(self, where: str) -> bytes:
        response = self._http.get(where)
        self._check(response)
        return response.content

    @staticmethod
    def _check(response: httpx.Response) -> None:
        if response.is_success:
            return
        response.read()
        try:
            sentence = str(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            sentence = f"The service answered {response.status_code}."
        raise ServiceError(sentence, response.status_code)


def _mask_name(frame: int | None) -> str:
    return "reference.png" if frame is None else f"driving/{frame}.png"
