"""Motion programs: each fills a builder with the curves of one kind of movement."""

import math
from collections.abc import Callable

from scail2.puppets.motions import MotionBuilder
from scail2.puppets.skeleton import SIDES

HALF = math.pi


def stand(motion: MotionBuilder) -> None:
    """A relaxed stance with small individual differences; programs overwrite what they move."""
    draws = motion.draws.child("stand")
    motion.hold("yaw", draws.uniform("yaw", -0.6, 0.6) * motion.domain.yaw)
    motion.hold("neck_yaw", draws.uniform("neck_yaw", -12.0, 12.0))
    motion.add("neck_roll", draws.uniform("neck_roll", 2.0, 9.0), phase=draws.phase("neck_phase"))
    motion.add("spine_roll", draws.uniform("spine_roll", 0.0, 6.0), phase=draws.phase("spine_phase"))
    for side in SIDES:
        motion.hold(f"abduct_{side}", draws.uniform(f"abduct_{side}", 5.0, 14.0))
        motion.hold(f"turn_{side}", draws.uniform(f"turn_{side}", 15.0, 45.0))
        motion.hold(f"flex_{side}", 3.0)
        motion.hold(f"knee_{side}", 6.0)
        motion.hold(f"spread_{side}", draws.uniform(f"spread_{side}", 6.0, 22.0))
        curl = draws.uniform(f"curl_{side}", 5.0, 40.0)
        motion.between(f"curl_{side}", curl, max(curl - 25.0, 2.0), phase=draws.phase(f"curl_phase_{side}"))


def arm_between(motion: MotionBuilder, side: str, name: str, *, phase: float, low: bool = False) -> None:
    """One arm swings between two poses that read well from the front: the elbow bends near the picture plane."""
    draws = motion.draws.child(f"{name}_{side}")
    first = draws.uniform("raise_first", 12.0, 55.0 if low else 95.0)
    second = first + draws.uniform("raise_change", 25.0, 50.0 if low else 85.0)
    motion.between(f"raise_{side}", first, min(second, 165.0), phase=phase)
    outward = draws.chance("outward", 0.75 if first + second > 110.0 else 0.5)
    twist = draws.uniform("twist", 55.0, 105.0) * (1.0 if outward else -1.0)
    motion.hold(f"twist_{side}", twist)
    elbow = draws.uniform("elbow_first", 8.0, 60.0)
    bend = draws.uniform("elbow_change", 15.0, 75.0)
    motion.between(f"elbow_{side}", elbow, elbow + bend, phase=phase + draws.uniform("elbow_phase", -1.2, 1.2))
    motion.hold(f"swing_{side}", draws.uniform("swing", -8.0, 28.0))
    show_hand(motion, side, twist)


def show_hand(motion: MotionBuilder, side: str, twist: float) -> None:
    """Turns the forearm so that the flat of the hand faces the viewer again."""
    draws = motion.draws.child(f"hand_{side}")
    motion.hold(f"pronate_{side}", -twist + draws.uniform("pronate", -28.0, 28.0))
    motion.hold(f"wrist_{side}", draws.uniform("wrist", -12.0, 12.0))


def _hand_on_hip(motion: MotionBuilder, side: str) -> None:
    draws = motion.draws.child(f"hip_hand_{side}")
    motion.hold(f"raise_{side}", draws.uniform("raise", 42.0, 55.0))
    motion.hold(f"twist_{side}", -88.0)
    motion.between(f"elbow_{side}", draws.uniform("elbow", 85.0, 100.0), 80.0)
    show_hand(motion, side, -88.0)


def rest_arm(motion: MotionBuilder, side: str) -> None:
    draws = motion.draws.child(f"rest_{side}")
    if draws.chance("on_hip", 0.4):
        _hand_on_hip(motion, side)
    else:
        arm_between(motion, side, "rest", phase=draws.phase("phase"), low=True)


def legs_between(motion: MotionBuilder, *, opposite: bool, bend: tuple[float, float]) -> None:
    """Both knees bend outward, together or in turn."""
    draws = motion.draws.child("legs")
    depth = draws.uniform("depth", *bend)
    for side in SIDES:
        phase = HALF if opposite and side == "left" else 0.0
        motion.hold(f"turn_{side}", draws.uniform("turn", 55.0, 75.0))
        motion.between(f"flex_{side}", 4.0, depth, phase=phase)
        motion.between(f"knee_{side}", 6.0, 1.9 * depth, phase=phase)
        motion.hold(f"abduct_{side}", draws.uniform("abduct", 8.0, 18.0))


def curves(motion: MotionBuilder) -> None:
    """Random smooth curves for every limb."""
    draws = motion.draws.child("curves")
    stand(motion)
    motion.add("yaw", draws.uniform("turn", 0.0, 0.35) * motion.domain.yaw, phase=draws.phase("yaw"))
    for side in SIDES:
        arm_between(motion, side, "curves", phase=draws.phase(f"arm_{side}"))
    if draws.chance("legs", 0.7):
        legs_between(motion, opposite=draws.chance("opposite", 0.5), bend=(8.0, 34.0))
    motion.add("sway", draws.uniform("sway", 0.0, 0.05), phase=draws.phase("sway"))


def wave(motion: MotionBuilder) -> None:
    """One raised arm waves, the other rests."""
    draws = motion.draws.child("wave")
    stand(motion)
    side, other = SIDES if draws.chance("left", 0.5) else SIDES[::-1]
    motion.between(f"raise_{side}", *(draws.uniform("raise", 85.0, 125.0) + shift for shift in (-10.0, 12.0)))
    motion.hold(f"twist_{side}", draws.uniform("twist", 80.0, 100.0))
    motion.between(
        f"elbow_{side}", 15.0, draws.uniform("elbow", 70.0, 100.0), harmonic=draws.choice("rate", (1.0, 1.5))
    )
    show_hand(motion, side, 90.0)
    motion.hold(f"curl_{side}", 8.0)
    motion.hold(f"spread_{side}", 20.0)
    rest_arm(motion, other)


def squat(motion: MotionBuilder) -> None:
    """Both knees bend while the arms rise."""
    draws = motion.draws.child("squat")
    stand(motion)
    legs_between(motion, opposite=False, bend=(30.0, 58.0))
    motion.hold("spine_pitch", draws.uniform("lean", 0.0, 10.0))
    for side in SIDES:
        arm_between(motion, side, "squat", phase=HALF + draws.uniform(f"phase_{side}", -0.4, 0.4))


def sidestep(motion: MotionBuilder) -> None:
    """Steps from side to side."""
    draws = motion.draws.child("sidestep")
    stand(motion)
    motion.plant = 0.2
    motion.add("sway", draws.uniform("sway", 0.06, 0.11))
    for side, phase in zip(SIDES, (0.0, HALF), strict=True):
        motion.between(f"abduct_{side}", draws.uniform("abduct", 22.0, 34.0), 4.0, phase=phase)
        motion.between(f"knee_{side}", draws.uniform("knee", 25.0, 50.0), 5.0, phase=phase + HALF)
        motion.between(f"flex_{side}", draws.uniform("flex", 14.0, 26.0), 3.0, phase=phase + HALF)
        motion.hold(f"turn_{side}", 50.0)
        arm_between(motion, side, "sidestep", phase=phase)
    motion.add("spine_roll", draws.uniform("roll", 4.0, 10.0), phase=HALF)


def dance(motion: MotionBuilder) -> None:
    """Arms in turn, hips swinging, knees in turn."""
    draws = motion.draws.child("dance")
    stand(motion)
    together = draws.chance("together", 0.4)
    for side, phase in zip(SIDES, (0.0, 0.0 if together else HALF), strict=True):
        arm_between(motion, side, "dance" if together else f"dance_{side}", phase=phase)
    legs_between(motion, opposite=draws.chance("opposite", 0.7), bend=(14.0, 38.0))
    motion.plant = 0.8
    motion.add("roll", draws.uniform("hips", 2.0, 8.0), phase=draws.phase("hips_phase"))
    motion.add("yaw", draws.uniform("turn", 0.1, 0.4) * motion.domain.yaw, phase=draws.phase("yaw"))


def turn(motion: MotionBuilder) -> None:
    """Turns to the left and right while the arms move."""
    draws = motion.draws.child("turn")
    stand(motion)
    motion.hold("yaw", 0.0)
    motion.add("yaw", draws.uniform("yaw", 0.75, 1.0) * motion.domain.yaw)
    motion.add("neck_yaw", draws.uniform("neck", 4.0, 12.0), phase=0.6)
    for side in SIDES:
        arm_between(motion, side, "turn", phase=draws.phase(f"arm_{side}"))


def jack(motion: MotionBuilder) -> None:
    """A slow jumping jack without the jump: arms and legs open and close together."""
    draws = motion.draws.child("jack")
    stand(motion)
    motion.plant = 1.0
    for side in SIDES:
        motion.between(f"raise_{side}", draws.uniform("low", 15.0, 40.0), draws.uniform("high", 120.0, 165.0))
        motion.hold(f"twist_{side}", 85.0)
        motion.between(f"elbow_{side}", 12.0, draws.uniform("elbow", 25.0, 60.0), phase=HALF)
        motion.between(f"abduct_{side}", 4.0, draws.uniform("legs", 20.0, 32.0))
        show_hand(motion, side, 85.0)


def march(motion: MotionBuilder) -> None:
    """Knees lifted in turn, arms swinging against them."""
    draws = motion.draws.child("march")
    stand(motion)
    lift = draws.uniform("lift", 38.0, 68.0)
    for side, phase in zip(SIDES, (0.0, HALF), strict=True):
        motion.hold(f"turn_{side}", draws.uniform("turn", 45.0, 75.0))
        motion.hold(f"flex_{side}", 0.4 * lift)
        motion.add(f"flex_{side}", 0.6 * lift, phase=phase)
        motion.hold(f"knee_{side}", 0.7 * lift)
        motion.add(f"knee_{side}", 0.9 * lift, phase=phase)
        arm_between(motion, side, "march", phase=phase + HALF, low=draws.chance("low", 0.5))
    motion.add("roll", draws.uniform("roll", 1.0, 4.0), phase=HALF)


PROGRAMS: dict[str, Callable[[MotionBuilder], None]] = {
    program.__name__: program for program in (curves, wave, squat, sidestep, dance, turn, jack, march)
}
"""The slow, frontal movements that the small embedded network learns."""
