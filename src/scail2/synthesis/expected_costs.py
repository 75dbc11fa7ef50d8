"""What a pair of the published way is expected to cost where nobody has measured it yet: predicted, assumed, and said so."""

from dataclasses import dataclass

from scail2.budget.machines import find_card
from scail2.errors import InputError
from scail2.execution.figures import Figures, Resource, StageFigures
from scail2.synthesis.generators.protocol import GeneratorFacts

REFERENCE_CARD = "A100 80 GB"
"""That the generators' estimates are of."""


@dataclass(frozen=True, slots=True)
class _Expected:
    """A stage: on what, seconds a visit, visits for an accepted pair."""

    name: str
    resource: Resource
    seconds: float
    visits: float


# An editor of 20.4e9 parameters at one megapixel with two pictures: 12,500 tokens, 6.3e14 operations a pass, 50 steps of
# 2 passes at 60 % of an A100's peak. Answers of an endpoint and the measures of a clip: assumed.
_EDIT_SECONDS = 336.0
_STAGES = (
    _Expected("select", Resource.ENDPOINT, 4.0, 1.5),
    _Expected("weave", Resource.ENDPOINT, 3.0, 2.5),
    _Expected("edit", Resource.GPU, _EDIT_SECONDS, 2.5),
    _Expected("judge_picture", Resource.ENDPOINT, 4.0, 2.5),
    _Expected("check_clip", Resource.CPU, 20.0, 1.4),
    _Expected("judge_clip", Resource.ENDPOINT, 8.0, 1.3),
    _Expected("caption", Resource.ENDPOINT, 8.0, 1.0),
)
_CLIPS = 1.4


def expected_figures(generator: GeneratorFacts, frames: int, card: str = REFERENCE_CARD) -> Figures:
    """Figures of 1000 pairs as they are expected, for a plan.

    Args:
        generator: whose seconds for a frame count.
        frames: of a clip.
        card: a name as `find_card` takes it; predictions for the A100 are scaled by what the vendors state.

    Raises:
        InputError: an unknown card, or a generator without an estimate.
    """
    if generator.seconds_per_frame is None:
        raise InputError(
            f"Nobody has said how long the generator {generator.name} takes: give figures of an earlier run."
        )
    chosen = find_card(card)
    slower = find_card(REFERENCE_CARD).bf16 / chosen.bf16
    generate = _Expected("generate", Resource.GPU, generator.seconds_per_frame * frames, _CLIPS)
    stages = []
    for each in (*_STAGES[:4], generate, *_STAGES[4:]):
        visits = round(1000 * each.visits)
        seconds = each.seconds * (slower if each.resource is Resource.GPU else 1.0)
        stages.append(StageFigures(name=each.name, resource=each.resource, visits=visits, busy=visits * seconds))
    return Figures(
        seconds=0.0,
        done=1000,
        discarded={"expected": 300},
        stages=tuple(stages),
        source=(
            f"not measured: {generator.name} as predicted ({generator.measured_on}), an editor of 20 billion parameters "
            f"predicted alike, scaled from {REFERENCE_CARD} to {chosen.name}; answers of an endpoint, measures and repetitions "
            "assumed"
        ),
    )
