import pytest

from scail2.errors import InputError
from scail2.modes import MODE_TRAITS, AnimationMode


def test_parse_takes_modes_and_their_names():
    assert AnimationMode.parse("animation") is AnimationMode.ANIMATION
    assert AnimationMode.parse(" Replacement ") is AnimationMode.REPLACEMENT
    assert AnimationMode.parse(AnimationMode.REPLACEMENT) is AnimationMode.REPLACEMENT


@pytest.mark.parametrize("wrong", ["animate", "", None, 1])
def test_parse_refuses_anything_else(wrong):
    with pytest.raises(InputError, match="'animation' or 'replacement'"):
        AnimationMode.parse(wrong)


def test_every_mode_shows_exactly_one_background():
    assert set(MODE_TRAITS) == set(AnimationMode)
    for traits in MODE_TRAITS.values():
        assert {traits.reference_background, traits.driving_background} == {"white", "black"}
    assert MODE_TRAITS[AnimationMode.ANIMATION].reference_background == "white"
    assert MODE_TRAITS[AnimationMode.REPLACEMENT].driving_background == "white"
