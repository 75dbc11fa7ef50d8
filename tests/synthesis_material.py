"""The loop on small puppets, for tests."""

import json
from dataclasses import dataclass, replace
from typing import Any

from endpoint_server import Asked, Turn

from scail2.modes import AnimationMode
from scail2.synthesis.bench import Bench
from scail2.synthesis.generators.puppets import PuppetGenerator
from scail2.synthesis.journal import PairJournal
from scail2.synthesis.loop import PairLoop
from scail2.synthesis.machine import Budget
from scail2.synthesis.pools.drawn import DrawnCharacters, DrawnMotions
from scail2.synthesis.roles.protocol import Made, Roles
from scail2.synthesis.roles.puppets import (
    PuppetCaptioner,
    PuppetEditor,
    PuppetJudge,
    PuppetSelector,
    PuppetWeaver,
)
from scail2.synthesis.store import Store

SIZE = {"height": 48, "width": 48}


@dataclass(frozen=True)
class Passed:
    passed: bool = True
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class NoCheck:
    """Passes all clips, or as many of the first ones not as `refuses` says."""

    refuses: int = 0

    def check(self, made: Made) -> Passed:
        return Passed()

    def describe(self) -> dict[str, Any]:
        return {}


def puppet_roles(error: float = 0.4, **changes) -> Roles:
    roles = Roles(
        selector=PuppetSelector(), weaver=PuppetWeaver(), editor=PuppetEditor(error=error), judge=PuppetJudge(),
        captioner=PuppetCaptioner(),
    )  # fmt: skip
    return replace(roles, **changes)


def puppet_bench(roles: Roles | None = None, **changes) -> Bench:
    generator = PuppetGenerator(error="mild")
    bench = Bench(
        motions=DrawnMotions(frames=5, **SIZE), characters=DrawnCharacters(**SIZE), roles=roles or puppet_roles(),
        generators=dict.fromkeys(AnimationMode, generator), check=NoCheck(), budget=Budget(), seed=1,
    )  # fmt: skip
    return replace(bench, **changes)


def pair_loop(folder, bench: Bench | None = None) -> PairLoop:
    bench = bench or puppet_bench()
    folder.mkdir(parents=True, exist_ok=True)
    return PairLoop(bench, PairJournal(folder / "journal.jsonl", bench.budget), Store(folder / "made"))


WELL = {"remark": "", "pose": "right", "environment": "right", "character": "right", "quality": "good"}
"""An inspection without objections."""


def answered(asked: Asked) -> Turn:
    """A server that plays all roles: it knows them by their schema, which the prompt holds where forms are not taken."""
    if asked.form == "json_schema":
        return Turn("no schemas here", status=400)
    first = {
        "candidate": {"reason": "…", "candidate": 1},
        "instruction": {"instruction": "Do it."},
        "caption": {"caption": "A dance."},
    }
    for key, answer in first.items():
        if f'"{key}": {{' in asked.text:
            return Turn(f"Sure!\n```json\n{json.dumps(answer)}\n```")
    return Turn(json.dumps(WELL))
