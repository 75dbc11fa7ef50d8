"""What a pair is expected to cost where nobody has measured it yet: predicted, assumed, and said so."""

from dataclasses import dataclass

from scail2.budget.machines import find_card
from scail2.errors import InputError
from scail2.execution.figures import Figures, Resource, StageFigures
from scail2.synthesis.events import Phase
from scail2.synthesis.generators.catalogue import facts_of
from scail2.synthesis.generators.facts import WAN_ANIMATE
from scail2.synthesis.plan import SynthesisPlan
from scail2.synthesis.stages import generator_names, stage_resources

REFERENCE_CARD = "A100 80 GB"
"""That the generators' estimates are of."""

FRAMES = 81
_PAIRS = 1000


@dataclass(frozen=True, slots=True)
class _Expected:
    """A stage: on what, seconds a visit, visits for an accepted pair."""

    resource: Resource
    seconds: float
    visits: float


# An editor of 20.4e9 parameters at one megapixel with two pictures: 12,500 tokens, 6.3e14 operations a pass, 50 steps of
# 2 passes at 60 % of an A100's peak. Answers of an endpoint and the measures of a clip: assumed.
_PUBLISHED = {
    Phase.SELECT: _Expected(Resource.ENDPOINT, 4.0, 1.5),
    Phase.WEAVE: _Expected(Resource.ENDPOINT, 3.0, 2.5),
    Phase.EDIT: _Expected(Resource.GPU, 336.0, 2.5),
    Phase.JUDGE_PICTURE: _Expected(Resource.ENDPOINT, 4.0, 2.5),
    Phase.GENERATE: _Expected(Resource.GPU, FRAMES * (WAN_ANIMATE.seconds_per_frame or 0.0), 1.4),
    Phase.CHECK_CLIP: _Expected(Resource.CPU, 20.0, 1.4),
    Phase.JUDGE_CLIP: _Expected(Resource.ENDPOINT, 8.0, 1.3),
    Phase.CAPTION: _Expected(Resource.ENDPOINT, 8.0, 1.0),
}


def expected_figures(card: str = REFERENCE_CARD) -> Figures:
    """Figures of 1000 pairs made in the published way, for a plan.

    Args:
        card: a name as `find_card` takes it; predictions for the A100 are scaled by what the vendors state.

    Raises:
        InputError: an unknown card.
    """
    return _figures(_PUBLISHED, card, f"{WAN_ANIMATE.name} as predicted ({WAN_ANIMATE.measured_on})")


def expected_of_plan(plan: SynthesisPlan, card: str = REFERENCE_CARD) -> Figures:
    """The same for what a plan names, of puppets for the published way; clips have the published length unless motions state one.

    Raises:
        InputError: an unknown card, or a generator without an estimate.
    """
    resources = stage_resources(plan)
    if Resource.GPU not in resources.values() and Resource.ENDPOINT not in resources.values():
        told = "the published way in place of this plan's puppets, "
        return _figures(_PUBLISHED, card, f"{told}{WAN_ANIMATE.name} as predicted ({WAN_ANIMATE.measured_on})")
    generators = [facts_of(name) for name in sorted(generator_names(plan))]
    unknown = [each.name for each in generators if each.seconds_per_frame is None]
    if unknown:
        raise InputError(
            f"Nobody has said how long {' and '.join(unknown)} takes: run a few pairs with --figures FILE, and plan with "
            "--measured FILE."
        )
    frames = plan.motions.get("frames", FRAMES)
    clip = frames * sum(each.seconds_per_frame or 0.0 for each in generators) / max(1, len(generators))
    stages = {}
    for phase, expected in _PUBLISHED.items():
        resource = resources[phase.value]
        played = resource is expected.resource
        seconds = clip if phase is Phase.GENERATE else expected.seconds
        stages[phase] = _Expected(resource, seconds if played else 0.0, expected.visits)
    told = "; ".join(f"{each.name} as predicted ({each.measured_on})" for each in generators)
    return _figures(stages, card, told)


def _figures(stages: dict[Phase, _Expected], card: str, generators: str) -> Figures:
    chosen = find_card(card)
    slower = find_card(REFERENCE_CARD).bf16 / chosen.bf16
    made = []
    for phase, each in stages.items():
        visits = round(_PAIRS * each.visits)
        seconds = each.seconds * (slower if each.resource is Resource.GPU else 1.0)
        made.append(StageFigures(name=phase.value, resource=each.resource, visits=visits, busy=visits * seconds))
    return Figures(
        seconds=0.0,
        done=_PAIRS,
        discarded={"expected": 300},
        stages=tuple(made),
        source=(
            f"not measured: {generators}, an editor of 20 billion parameters predicted alike, scaled from {REFERENCE_CARD} to "
            f"{chosen.name}; answers of an endpoint, measures, repetitions and discards assumed"
        ),
    )
