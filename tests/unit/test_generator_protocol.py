"""What generators are given is checked where it is made, and facts refuse what a generator cannot do."""

import numpy as np
import pytest

from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.perception.segmenters.people.joints import Joints
from scail2.synthesis.generators.protocol import Character, Clip, GeneratorFacts, Motion, Style

FRAMES = np.zeros((5, 16, 24, 3), np.uint8)
FACTS = GeneratorFacts(name="stand-in", licence="none stated", modes=(AnimationMode.REPLACEMENT,), max_characters=1)


def test_a_clip_knows_its_size_and_refuses_what_is_no_clip():
    assert Clip(frames=FRAMES, fps=16.0).size == (16, 24)
    with pytest.raises(InputError, match=r"a clip's frames must be uint8 \(T, H, W, 3\), not float64 \(5, 16, 24, 3\)"):
        Clip(frames=FRAMES.astype(float), fps=16.0)
    with pytest.raises(InputError, match="frame rate of a clip is 0"):
        Clip(frames=FRAMES, fps=0)


def test_masks_and_joints_are_of_the_clip():
    clip = Clip(frames=FRAMES, fps=16.0)
    with pytest.raises(InputError, match=r"The masks of walk are \(4, 16, 24\), its clip \(5, 16, 24\)"):
        Motion(name="walk", clip=clip, masks=FRAMES[:4])
    joints = Joints(places=np.zeros((1, 4, 33, 2), np.float32), visibility=np.zeros((1, 4, 33), np.float32))
    with pytest.raises(InputError, match="joints of walk are of 4 frames, its clip has 5"):
        Motion(name="walk", clip=clip, joints=joints)
    with pytest.raises(InputError, match="The mask of Ann"):
        Character(name="Ann", style=Style.REAL, image=FRAMES[0], mask=FRAMES[0, :8])


def test_facts_refuse_another_mode_and_more_characters():
    FACTS.check(AnimationMode.REPLACEMENT, 1)
    with pytest.raises(InputError, match="stand-in makes replacement, not animation"):
        FACTS.check(AnimationMode.ANIMATION)
    with pytest.raises(InputError, match="at most 1 at once, not 2 characters: replace them one after the other"):
        FACTS.check(AnimationMode.REPLACEMENT, 2)
