"""More motion programs: gaits, jumps, sitting, gestures with fingers, free turns."""

import math
from collections.abc import Callable

from scail2.puppets.motions import MotionBuilder
from scail2.puppets.programs import HALF, arm_between, legs_between, rest_arm, show_hand, stand
from scail2.puppets.skeleton import DIGIT_NAMES, SIDES

QUARTER = 0.5 * math.pi
GAIT_RATE = 3.0
"""Steps in a crossing of the stage and back."""


def _stride(motion: MotionBuilder, *, thigh: float, knee: float, arm: float, harmonic: float) -> None:
    """Legs in turn, forward and back, with the arms swinging against them."""
    draws = motion.draws.child("stride")
    elbow = draws.uniform("elbow", 15.0, 40.0) + 0.6 * max(0.0, thigh - 25.0)
    for side, phase in zip(SIDES, (0.0, HALF), strict=True):
        motion.hold(f"turn_{side}", draws.uniform("turn", 5.0, 15.0))
        motion.hold(f"abduct_{side}", 3.0)
        motion.hold(f"flex_{side}", 0.25 * thigh)
        motion.add(f"flex_{side}", thigh, phase=phase, harmonic=harmonic)
        motion.hold(f"knee_{side}", 0.55 * knee)
        motion.add(f"knee_{side}", 0.55 * knee, phase=phase + 1.1, harmonic=harmonic)
        motion.hold(f"raise_{side}", 12.0)
        motion.hold(f"twist_{side}", 0.0)
        motion.add(f"swing_{side}", arm, phase=phase + HALF, harmonic=harmonic)
        motion.between(f"elbow_{side}", elbow, 0.6 * elbow, phase=phase + HALF, harmonic=harmonic)
        motion.hold(f"pronate_{side}", -40.0)
    motion.hold("spine_pitch", draws.uniform("lean", 0.0, 4.0) + 0.15 * max(0.0, thigh - 25.0))
    motion.add("spine_yaw", draws.uniform("twist", 2.0, 8.0), harmonic=harmonic)


def _patrol(motion: MotionBuilder, reach: float) -> None:
    """Crosses the stage and comes back, turned into the direction of travel."""
    motion.plant = 0.0
    motion.add("sway", reach, phase=0.0)
    motion.hold("yaw", 0.0)
    # The velocity is the cosine; its third harmonic squares the turn up so that the way is walked in profile.
    motion.add("yaw", 86.0, phase=QUARTER)
    motion.add("yaw", -18.0, phase=QUARTER, harmonic=3.0)


def walk(motion: MotionBuilder) -> None:
    """Walks across the stage and back, or on the spot."""
    draws = motion.draws.child("walk")
    stand(motion)
    on_the_spot = draws.chance("on_the_spot", 0.4)
    _stride(
        motion,
        thigh=draws.uniform("thigh", 16.0, 30.0),
        knee=draws.uniform("knee", 25.0, 50.0),
        arm=draws.uniform("arm", 12.0, 40.0),
        harmonic=1.5 if on_the_spot else GAIT_RATE,
    )
    if on_the_spot:
        motion.plant = 0.0
        motion.hold("yaw", draws.uniform("heading", 25.0, 90.0) * draws.choice("to", (-1.0, 1.0)))
    else:
        motion.slow_down(0.4)
        _patrol(motion, draws.uniform("reach", 0.2, 0.35))


def run(motion: MotionBuilder) -> None:
    """Runs on the spot or across, with high knees and bent elbows."""
    draws = motion.draws.child("run")
    stand(motion)
    across = draws.chance("across", 0.5)
    rate = 4.0 if across else 2.0
    thigh = draws.uniform("thigh", 32.0, 48.0)
    _stride(motion, thigh=thigh, knee=draws.uniform("knee", 70.0, 100.0), arm=45.0, harmonic=rate)
    motion.add("lift", 0.03, harmonic=2.0 * rate)
    if across:
        motion.slow_down(0.4)
        _patrol(motion, draws.uniform("reach", 0.2, 0.35))
    else:
        motion.plant = 0.0
        motion.hold("yaw", draws.uniform("heading", 40.0, 90.0) * draws.choice("to", (-1.0, 1.0)))


def jump(motion: MotionBuilder) -> None:
    """Crouches, then leaves the ground with the arms thrown up."""
    draws = motion.draws.child("jump")
    stand(motion)
    motion.hold("lift", -0.02)
    motion.add("lift", draws.uniform("height", 0.08, 0.2))
    crouch = draws.uniform("crouch", 22.0, 45.0)
    for side in SIDES:
        motion.hold(f"turn_{side}", 40.0)
        motion.between(f"flex_{side}", crouch, 2.0, phase=HALF)
        motion.between(f"knee_{side}", 1.9 * crouch, 4.0, phase=HALF)
        motion.between(f"ankle_{side}", 40.0, 0.0)
        motion.between(f"raise_{side}", draws.uniform("high", 110.0, 165.0), 25.0, phase=0.3)
        motion.hold(f"twist_{side}", 80.0)
        motion.hold(f"elbow_{side}", 25.0)
        show_hand(motion, side, 80.0)


def hop(motion: MotionBuilder) -> None:
    """Hops on one leg."""
    draws = motion.draws.child("hop")
    stand(motion)
    side, other = SIDES if draws.chance("left", 0.5) else SIDES[::-1]
    motion.add("lift", draws.uniform("height", 0.04, 0.09), harmonic=1.5)
    motion.between(f"knee_{side}", 30.0, 6.0, phase=HALF, harmonic=1.5)
    motion.between(f"flex_{side}", 15.0, 2.0, phase=HALF, harmonic=1.5)
    motion.hold(f"flex_{other}", draws.uniform("lifted", 35.0, 70.0))
    motion.hold(f"knee_{other}", draws.uniform("folded", 70.0, 110.0))
    motion.hold(f"turn_{other}", 45.0)
    for arm in SIDES:
        arm_between(motion, arm, "hop", phase=draws.phase(f"arm_{arm}"))


def sit(motion: MotionBuilder) -> None:
    """Sits on a stool and gestures."""
    draws = motion.draws.child("sit")
    stand(motion)
    motion.plant = 0.0
    motion.seat = draws.uniform("seat", 0.16, 0.24)
    for side in SIDES:
        motion.hold(f"flex_{side}", draws.uniform(f"flex_{side}", 76.0, 86.0))
        motion.hold(f"knee_{side}", draws.uniform(f"knee_{side}", 74.0, 92.0))
        motion.hold(f"abduct_{side}", draws.uniform("abduct", 6.0, 22.0))
        motion.hold(f"turn_{side}", draws.uniform("turn", 5.0, 20.0))
        arm_between(motion, side, "sit", phase=draws.phase(f"arm_{side}"), low=draws.chance(f"low_{side}", 0.5))
    motion.add("spine_roll", draws.uniform("roll", 2.0, 9.0), phase=draws.phase("roll"))


def sit_down(motion: MotionBuilder) -> None:
    """Sits on the ground with the legs spread and sways."""
    draws = motion.draws.child("sit_down")
    stand(motion)
    motion.plant = 0.0
    for side in SIDES:
        motion.hold(f"flex_{side}", 88.0)
        motion.hold(f"abduct_{side}", draws.uniform("abduct", 15.0, 38.0))
        motion.between(
            f"knee_{side}", draws.uniform(f"knee_{side}", 5.0, 60.0), 5.0, phase=draws.phase(f"phase_{side}")
        )
        motion.hold(f"turn_{side}", 35.0)
        arm_between(motion, side, "sit_down", phase=draws.phase(f"arm_{side}"))
    motion.add("spine_roll", draws.uniform("roll", 4.0, 12.0))


def kick(motion: MotionBuilder) -> None:
    """Kicks forward and sideways with one leg."""
    draws = motion.draws.child("kick")
    stand(motion)
    side = draws.choice("side", SIDES)
    motion.plant = 0.0
    motion.between(f"flex_{side}", draws.uniform("high", 55.0, 95.0), -15.0)
    motion.between(f"abduct_{side}", draws.uniform("out", 10.0, 45.0), 4.0)
    motion.between(f"knee_{side}", 10.0, draws.uniform("knee", 40.0, 80.0), phase=0.5)
    motion.hold("yaw", draws.uniform("heading", 20.0, 70.0) * draws.choice("to", (-1.0, 1.0)))
    for arm in SIDES:
        arm_between(motion, arm, "kick", phase=draws.phase(f"arm_{arm}"))


def box(motion: MotionBuilder) -> None:
    """Punches in turn with closed fists."""
    draws = motion.draws.child("box")
    stand(motion)
    legs_between(motion, opposite=True, bend=(10.0, 20.0))
    motion.hold("yaw", draws.uniform("heading", 25.0, 75.0) * draws.choice("to", (-1.0, 1.0)))
    for side, phase in zip(SIDES, (0.0, HALF), strict=True):
        motion.between(f"swing_{side}", draws.uniform("reach", 75.0, 95.0), 20.0, phase=phase, harmonic=1.5)
        motion.between(f"elbow_{side}", 12.0, 120.0, phase=phase, harmonic=1.5)
        motion.hold(f"raise_{side}", 14.0)
        motion.hold(f"curl_{side}", 92.0)
        motion.hold(f"spread_{side}", 0.0)
    motion.add("spine_yaw", draws.uniform("twist", 8.0, 22.0), harmonic=1.5)


def bow(motion: MotionBuilder) -> None:
    """Bows and straightens up again."""
    draws = motion.draws.child("bow")
    stand(motion)
    motion.plant = 1.0
    depth = draws.uniform("depth", 30.0, 60.0)
    motion.between("pitch", 0.4 * depth, 0.0)
    motion.between("spine_pitch", 0.7 * depth, -4.0)
    for side in SIDES:
        motion.hold(f"flex_{side}", 6.0)
        rest_arm(motion, side)


def stretch(motion: MotionBuilder) -> None:
    """Bends from side to side with the arms overhead."""
    draws = motion.draws.child("stretch")
    stand(motion)
    motion.add("spine_roll", draws.uniform("bend", 14.0, 30.0))
    motion.add("roll", draws.uniform("hips", 3.0, 9.0), phase=HALF)
    for side in SIDES:
        motion.hold(f"raise_{side}", draws.uniform("raise", 140.0, 168.0))
        motion.hold(f"twist_{side}", 85.0)
        motion.between(f"elbow_{side}", draws.uniform("elbow", 15.0, 60.0), 10.0, phase=draws.phase(f"elbow_{side}"))
        show_hand(motion, side, 85.0)


def clap(motion: MotionBuilder) -> None:
    """Claps before the chest or overhead."""
    draws = motion.draws.child("clap")
    stand(motion)
    legs_between(motion, opposite=draws.chance("opposite", 0.5), bend=(4.0, 16.0))
    high = draws.uniform("high", 35.0, 115.0)
    for side in SIDES:
        motion.between(f"swing_{side}", high, high - 12.0, harmonic=1.5)
        motion.between(f"raise_{side}", 45.0, 8.0, harmonic=1.5)
        motion.hold(f"elbow_{side}", draws.uniform("elbow", 50.0, 80.0))
        motion.between(f"twist_{side}", 10.0, -38.0, harmonic=1.5)
        motion.hold(f"curl_{side}", 5.0)
        motion.hold(f"pronate_{side}", -60.0)


def point(motion: MotionBuilder) -> None:
    """Points with a stretched index finger here and there."""
    draws = motion.draws.child("point")
    stand(motion)
    side, other = SIDES if draws.chance("left", 0.5) else SIDES[::-1]
    arm_between(motion, side, "point", phase=0.0)
    motion.hold(f"elbow_{side}", draws.uniform("elbow", 10.0, 30.0))
    motion.hold(f"curl_{side}", 6.0)
    for digit in DIGIT_NAMES:
        if digit != "index":
            motion.hold(f"curl_{digit}_{side}", 80.0)
    rest_arm(motion, other)


def count(motion: MotionBuilder) -> None:
    """Raised hands that open and close their fingers one after the other."""
    draws = motion.draws.child("count")
    stand(motion)
    step = draws.uniform("step", 0.5, 1.1)
    for side in SIDES if draws.chance("both", 0.6) else SIDES[:1]:
        motion.hold(f"raise_{side}", draws.uniform("raise", 35.0, 70.0))
        motion.hold(f"twist_{side}", 88.0)
        motion.hold(f"elbow_{side}", draws.uniform("elbow", 85.0, 110.0))
        show_hand(motion, side, 88.0)
        motion.hold(f"curl_{side}", 4.0)
        motion.hold(f"spread_{side}", 20.0)
        for number, digit in enumerate(DIGIT_NAMES):
            motion.between(f"curl_{digit}_{side}", 0.0, 88.0, phase=step * number)


def spin(motion: MotionBuilder) -> None:
    """Turns round and round with the arms out."""
    draws = motion.draws.child("spin")
    stand(motion)
    motion.drift("yaw", 360.0 * motion.frequency * draws.uniform("rate", 0.4, 0.9) * draws.choice("to", (-1.0, 1.0)))
    for side in SIDES:
        arm_between(motion, side, "spin", phase=draws.phase(f"arm_{side}"))
    legs_between(motion, opposite=True, bend=(4.0, 22.0))


def free(motion: MotionBuilder) -> None:
    """Random smooth curves for every angle, in all directions."""
    draws = motion.draws.child("free")
    stand(motion)
    motion.hold("yaw", draws.uniform("yaw", -1.0, 1.0) * motion.domain.yaw)
    motion.add("yaw", draws.uniform("turn", 0.0, 0.5) * motion.domain.yaw, phase=draws.phase("yaw"))
    reach = {"raise": 60.0, "swing": 45.0, "twist": 60.0, "elbow": 45.0, "pronate": 40.0, "wrist": 30.0, "curl": 40.0}
    reach |= {"flex": 25.0, "abduct": 10.0, "knee": 30.0}
    middle = {"raise": 70.0, "swing": 25.0, "elbow": 55.0, "curl": 35.0, "flex": 18.0, "abduct": 12.0, "knee": 30.0}
    for side in SIDES:
        for name, amplitude in reach.items():
            motion.hold(
                f"{name}_{side}", middle.get(name, 0.0) + draws.uniform(f"{name}_{side}", -0.4, 0.4) * amplitude
            )
            for number, harmonic in enumerate((1.0, draws.uniform(f"rate_{name}_{side}", 1.3, 2.2))):
                size = draws.uniform(f"{name}_{side}_{number}", 0.15, 0.6) * amplitude
                motion.add(
                    f"{name}_{side}", size, phase=draws.phase(f"{name}_{side}_{number}.phase"), harmonic=harmonic
                )
    motion.add("spine_yaw", draws.uniform("twist", 3.0, 20.0), phase=draws.phase("twist"))


PROGRAMS: dict[str, Callable[[MotionBuilder], None]] = {
    program.__name__: program
    for program in (*(walk, run, jump, hop, sit, sit_down, kick, box), *(bow, stretch, clap, point, count, spin, free))
}
