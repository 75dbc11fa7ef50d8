"""The loop on small puppets, for tests."""

from dataclasses import dataclass, replace
from typing import Any

from scail2.modes import AnimationMode
from scail2.synthesis.generators.puppets import PuppetGenerator
from scail2.synthesis.journal import PairJournal
from scail2.synthesis.loop import Bench, PairLoop
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
