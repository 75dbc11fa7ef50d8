"""What each phase of the loop keeps busy, by a plan; and how many pairs meet there."""

from scail2.execution.figures import Resource
from scail2.execution.stages import StageBoard
from scail2.synthesis.events import Phase
from scail2.synthesis.generators.facts import PUPPETS
from scail2.synthesis.plan import SynthesisPlan

_ROLES = {
    Phase.SELECT: "selector",
    Phase.WEAVE: "weaver",
    Phase.EDIT: "editor",
    Phase.JUDGE_PICTURE: "judge",
    Phase.JUDGE_CLIP: "judge",
    Phase.CAPTION: "captioner",
}
_PLAYERS = {"endpoint": Resource.ENDPOINT, "diffusers": Resource.GPU}
ASSEMBLE = "assemble"
"""The stage after the loop: an accepted pair becomes files."""


def stage_resources(plan: SynthesisPlan) -> dict[str, Resource]:
    """Stage -> what it keeps busy, in the order of the loop; puppets and measures need a processor only."""
    usual = "puppets" if plan.endpoint is None else "endpoint"
    found = {}
    for phase in Phase:
        if phase.is_over:
            continue
        resource = Resource.CPU
        if role := _ROLES.get(phase):
            player = getattr(plan.roles, role).get("play", "puppets" if role == "editor" else usual)
            resource = _PLAYERS.get(player, Resource.CPU)
        elif phase is Phase.GENERATE and generator_names(plan) != {PUPPETS.name}:
            resource = Resource.GPU
        found[phase.value] = resource
    return found | {ASSEMBLE: Resource.CPU}


def generator_names(plan: SynthesisPlan) -> set[str]:
    """Generators that the plan's constructions need."""
    modes = {kind.mode.value for kind, share in plan.shares.items() if share and not kind.is_pose}
    return {str(getattr(plan.generators, mode).get("name")) for mode in modes}


def stage_board(plan: SynthesisPlan) -> StageBoard:
    """A board for one worker: one card, and an endpoint that is asked by every pair in the making."""
    return StageBoard(
        stage_resources(plan),
        {Resource.GPU: 1, Resource.ENDPOINT: plan.in_flight, Resource.CPU: plan.in_flight},
    )
