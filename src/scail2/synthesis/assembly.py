"""From an accepted state to a motion pair as shards hold it."""

import dataclasses

from scail2.data.pairs import MotionPair
from scail2.modes import AnimationMode
from scail2.synthesis.bench import Job
from scail2.synthesis.loop import PairLoop
from scail2.synthesis.machine import State


def assembled(loop: PairLoop, job: Job, state: State) -> MotionPair:
    """The pair: ỹ with its own masks, y as the pool has it, and where both are from. A pose pair is y alone, with its pose."""
    drawn = loop.pool_motion(state)
    real = dataclasses.replace(drawn.real, caption=state.captions[0])
    # Of a filmed motion its own source and the dance that its maker says it is stay: the data card and the splits go by them.
    meta = {"source": "synthesis", "motion": state.motion, **drawn.meta, "number": job.number, "seed": loop.bench.seed}
    if not state.replaced:
        return MotionPair(synthetic=real, real=real, construction=state.kind, meta={**meta, "made": "pose"})
    synthetic = dataclasses.replace(loop.annotated(state), caption=state.captions[1])
    characters = {each.character: loop.bench.characters.meta(each.character) for each in state.replaced}
    generator = loop.bench.generators[state.kind.mode].facts.name
    meta |= {"made": "generated", "generator": generator, "characters": characters}
    if state.kind.mode is AnimationMode.REPLACEMENT:
        meta["replaced"] = list(state.order)
    return MotionPair(synthetic=synthetic, real=real, construction=state.kind, meta=meta)
