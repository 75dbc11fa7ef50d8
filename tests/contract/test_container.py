"""Dockerfile and compose file: parsed and held to rules (no image is built by tests)."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from scail2.cli.app import build_app

ROOT = Path(__file__).parents[2]
TARGETS = ("cpu", "cuda")


def stages():
    """Stage name -> its instructions as (name, arguments), those of the stages it builds on first."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            parent, stage = re.fullmatch(r"(\S+) AS (\w+)", rest).groups()
            found[stage] = current = [*found.get(parent, []), (name, parent)]
        else:
            current.append((name, rest.strip()))
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_the_service_as_nobody_special(target):
    instructions = stages()[target]
    assert [rest for name, rest in instructions if name == "USER"] == ["scail2"]
    names = [name for name, _ in instructions]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))
    given = dict(instructions)
    entry, command = (yaml.safe_load(given[name]) for name in ("ENTRYPOINT", "CMD"))
    assert entry == ["scail2"]
    app = typer.main.get_command(build_app())
    verb = app.commands[command[0]]
    verb.make_context(command[0], list(command[1:]))
    assert given["EXPOSE"] == "8420"
    assert yaml.safe_load(given["VOLUME"]) == ["/models", "/runs"]


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_installed_is_pinned_and_exists(target):
    installs = [
        part for name, rest in stages()[target] if name == "RUN" for part in rest.split("&&") if "pip install" in part
    ]
    words = [word for part in installs for word in shlex.split(part)]
    assert "torch==2.13.0" in words
    extras = re.search(r"\.\[(.+)\]", " ".join(words))[1].split(",")
    assert (
        set(extras) <= tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    )
    assert "torch==2.13.0" in (ROOT / "Makefile").read_text()


def test_what_the_image_copies_is_let_through_and_there():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [word for name, rest in stages()["base"] if name == "COPY" for word in rest.split()[:-1]]
    assert {f"!{word}" for word in copied} <= set(ignored)
    assert all((ROOT / word).exists() for word in copied)


def test_compose_offers_both_targets_behind_a_secret_on_loopback():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert set(services) == set(TARGETS)
    for name, service in services.items():
        assert service["build"] == {"context": ".", "target": name}
        assert service["environment"]["SCAIL2_TOKEN"].startswith("${SCAIL2_TOKEN:?")
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert "./models:/models:ro" in service["volumes"]
        assert service["cap_drop"] == ["ALL"]
