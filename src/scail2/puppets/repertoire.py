"""All motion programs, and drawing a motion from them."""

from scail2.puppets import acts, programs
from scail2.puppets.domain import PuppetDomain
from scail2.puppets.motions import Motion, MotionBuilder
from scail2.puppets.seeds import Draws, Split, seed_of

PROGRAMS = programs.PROGRAMS | acts.PROGRAMS


def sample_motion(split: str | Split, index: int, domain: PuppetDomain, salt: str = "") -> Motion:
    """Motion `index` of a split; the same arguments always give the same motion."""
    draws = Draws(seed_of(split, "motion", index, domain.name, salt))
    program = draws.choice("program", domain.programs)
    builder = MotionBuilder(draws, domain)
    PROGRAMS[program](builder)
    return builder.build(draws.seed, program)
