"""Whether the service lives, and what it counts."""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from scail2.serving.access import Owner, ServiceOf

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz(service: ServiceOf) -> dict[str, str]:
    """200 while the queue answers."""
    service.queue.counts()
    return {"status": "ok"}


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(service: ServiceOf, owner: Owner) -> PlainTextResponse:
    """Counters and gauges in Prometheus' text format."""
    lines = ["# HELP scail2_jobs Jobs by state.", "# TYPE scail2_jobs gauge"]
    lines += [f'scail2_jobs{{state="{state}"}} {number}' for state, number in sorted(service.queue.counts().items())]
    dispatcher = service.dispatcher
    for name, kind, help, value in (
        ("scail2_workers", "gauge", "Workers.", len(service.settings.devices)),
        ("scail2_workers_busy", "gauge", "Workers at work.", dispatcher.busy),
        ("scail2_worker_deaths_total", "counter", "Workers that ended in a job.", dispatcher.deaths),
        ("scail2_segments_rendered_total", "counter", "Segments rendered.", dispatcher.rendered_segments),
    ):
        lines += [f"# HELP {name} {help}", f"# TYPE {name} {kind}", f"{name} {value}"]
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")
