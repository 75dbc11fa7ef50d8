"""What is known about each generator before anything is loaded, installed or spent: licence, cost, and what it cannot do."""

from scail2.modes import AnimationMode
from scail2.synthesis.generators.protocol import GeneratorFacts

_BOTH = (AnimationMode.ANIMATION, AnimationMode.REPLACEMENT)
_NOT_RUN = "The published weights have never been run by this package: its tests run the real classes at tiny sizes."
_STAND_IN = "It has never been run by this package: its tests run a stand-in that speaks the same files."
_PREDICTED = "at 60 % of an A100's peak; predicted, not measured"

PUPPETS = GeneratorFacts(
    name="puppets",
    licence="Apache-2.0, drawn by this package",
    modes=_BOTH,
    max_characters=1,
    seconds_per_frame=0.001,
    measured_on="one core of a server's CPU, 128x128",
    driven_by_poses=True,
    cannot=(
        "It draws only the puppets and motions of its own pools, whatever the picture shows.",
        "Several characters are replaced one after the other.",
    ),
)
OWN = GeneratorFacts(
    name="own",
    licence="code Apache-2.0; the public weights MIT; a checkpoint of yours as you say",
    modes=_BOTH,
    max_characters=6,
    seconds_per_frame=1.45,
    measured_on="the public 14B, 512x896, 6 steps a segment, one A100 (40 GB); reported by others, not measured here",
    cannot=(
        "It repeats its own mistakes: check what it makes, and drive in reverse.",
        "Sides of clips are multiples of the model's step (32 pixels for the public weights).",
    ),
)
WAN_ANIMATE = GeneratorFacts(
    name="wan-animate",
    licence="code and weights Apache-2.0",
    modes=_BOTH,
    max_characters=1,
    seconds_per_frame=2.9,
    measured_on=f"512x896, 77 frames, 20 steps of 2.06e15 operations {_PREDICTED}",
    driven_by_poses=True,
    cannot=(
        "It follows skeletons of 18 joints that the extra people finds: fingers are not among them.",
        "The performer's proportions show through, for skeletons are not fitted to the character.",
        "Sides of clips are multiples of 16, clips have at least 5 frames.",
        _NOT_RUN,
    ),
)
_CLIP_DRIVEN = (
    "It makes animations only, and of a clip that shows one performer.",
    "Sides of clips are multiples of 16, clips have at least 5 frames, and all of them are used at the clip's own rate.",
    "Its attention has to be compiled: on a GPU it takes minutes before the first clip, on a CPU it is for tests.",
    _NOT_RUN,
)
_CLIP_LICENCE = "code Apache-2.0; weights as their publisher states, not looked up here"
WAN_ANIMATE_2 = GeneratorFacts(
    name="wan-animate-2",
    licence=_CLIP_LICENCE,
    modes=(AnimationMode.ANIMATION,),
    max_characters=1,
    seconds_per_frame=13.9,
    measured_on=f"640x800, 81 frames, 40 steps of 2 passes of 2.64e15 operations {_PREDICTED}",
    cannot=_CLIP_DRIVEN,
)
WAN_ANIMATE_2_DISTILLED = GeneratorFacts(
    name="wan-animate-2-distilled",
    licence=_CLIP_LICENCE,
    modes=(AnimationMode.ANIMATION,),
    max_characters=1,
    seconds_per_frame=1.9,
    measured_on=f"640x800, 81 frames, 11 passes of 2.64e15 operations {_PREDICTED}",
    cannot=_CLIP_DRIVEN,
)
MOCHA = GeneratorFacts(
    name="mocha",
    licence="none stated with the code: ask its authors before you use what it makes",
    modes=(AnimationMode.REPLACEMENT,),
    max_characters=1,
    seconds_per_frame=12.7,
    measured_on="832x480, 81 frames, 50 steps of 20.5 s (fp8, blocks swapped, 15.6 GB); reported by others, not measured here",
    cannot=(
        "It replaces only, one character a call, told by a mask of the first frame: whoever enters later cannot be replaced.",
        "Clips are 832x480, 4k+1 frames, at most 81; its script always draws with seed 0.",
        _STAND_IN,
    ),
)
SCAIL = GeneratorFacts(
    name="scail",
    licence="code and weights Apache-2.0; its pose stage brings NLF and DWPose with terms of their own",
    modes=(AnimationMode.ANIMATION,),
    max_characters=1,
    seconds_per_frame=None,
    measured_on="nobody has told this package a time",
    cannot=(
        "It animates only; poses are found by its own stage, so joints that come with a motion are not used.",
        "Clips are 896x512 or 512x896, 4k+1 frames, at most 81.",
        _STAND_IN,
    ),
)

ALL = (PUPPETS, OWN, WAN_ANIMATE, WAN_ANIMATE_2, WAN_ANIMATE_2_DISTILLED, MOCHA, SCAIL)
"""Every generator that can be named."""
