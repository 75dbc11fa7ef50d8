"""Splits of the puppet world share nothing, and every draw repeats."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scail2.errors import InputError
from scail2.puppets import (
    FULL,
    NANO,
    Split,
    sample_camera,
    sample_character,
    sample_motion,
    sample_placements,
    sample_scene,
)
from scail2.puppets.seeds import Draws, seed_of, split_of

KINDS = ("character", "motion", "scene", "camera", "placement")
INDICES = st.integers(0, 2**40)
SALTS = st.text(max_size=8)


@settings(deadline=None, max_examples=50)
@given(first=INDICES, second=INDICES, salts=st.tuples(SALTS, SALTS), kind=st.sampled_from(KINDS))
def test_no_seed_belongs_to_two_splits(first, second, salts, kind):
    for one in Split:
        for other in Split:
            if one is not other:
                assert seed_of(one, kind, first, "nano", salts[0]) != seed_of(other, kind, second, "nano", salts[1])


@settings(deadline=None, max_examples=50)
@given(index=INDICES, salt=SALTS, split=st.sampled_from(list(Split)))
def test_a_seed_names_its_split(index, salt, split):
    assert split_of(seed_of(split, "character", index, "nano", salt)) is split


@settings(deadline=None, max_examples=50)
@given(index=st.integers(0, 10**6), salt=SALTS)
def test_items_carry_the_seed_of_their_split(index, salt):
    for split in Split:
        for item in (
            sample_character(split, index, FULL, salt),
            sample_motion(split, index, FULL, salt),
            sample_scene(split, index, FULL, salt),
            sample_camera(split, index, FULL, salt),
        ):
            assert split_of(item.seed) is split


@pytest.mark.parametrize("domain", [NANO, FULL], ids=lambda domain: domain.name)
def test_the_same_arguments_give_the_same_items(domain):
    for index in range(20):
        assert sample_character("test", index, domain) == sample_character(Split.TEST, index, domain)
        assert sample_scene("test", index, domain) == sample_scene("test", index, domain)
        assert sample_camera("test", index, domain) == sample_camera("test", index, domain)
        assert sample_placements("test", index, domain, count=2) == sample_placements("test", index, domain, count=2)
        one, two = sample_motion("test", index, domain), sample_motion("test", index, domain)
        assert (one.mean == two.mean).all()
        assert (one.phase == two.phase).all()


def test_the_salt_changes_everything_held_out():
    plain = [sample_character("holdout", index, NANO) for index in range(30)]
    salted = [sample_character("holdout", index, NANO, "pepper") for index in range(30)]
    assert not {character.seed for character in plain} & {character.seed for character in salted}


def test_looks_of_different_splits_differ():
    """Not only the seeds: no two of 400 characters in four splits look alike."""
    looks = {
        dataclasses.replace(sample_character(split, index, NANO), seed=0) for split in Split for index in range(100)
    }
    assert len(looks) == 400


def test_draws_are_independent_by_name_and_uniform():
    draws = Draws(12345)
    values = [draws.unit(f"value{number}") for number in range(4000)]
    assert abs(sum(values) / 4000 - 0.5) < 0.02
    assert draws.unit("value7") == values[7]
    assert draws.child("a").unit("b") == Draws(12345, "a/").unit("b") != draws.unit("b")
    assert {draws.integer(f"n{number}", 2, 4) for number in range(100)} == {2, 3, 4}


def test_draws_are_frozen_for_ever():
    """These numbers fix the test split; they may never change."""
    assert seed_of("test", "character", 0, "nano") == 13724339715772985938
    assert Draws(1).unit("a") == pytest.approx(0.2679100911950798, abs=1e-15)
    assert sample_character("test", 0, NANO).outfit.shirt == (35, 144, 200)


def test_user_mistakes_are_named():
    with pytest.raises(InputError, match="Unknown split 'tset'"):
        sample_character("tset", 0, NANO)
    with pytest.raises(InputError, match="index of a puppet scene is -1"):
        sample_scene("train", -1, NANO)
