"""Generators by name: what `scail2 synthesize --generators` shows, and one made from the settings of a file."""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

from scail2.errors import InputError
from scail2.files.documents import decode
from scail2.synthesis.generators import facts
from scail2.synthesis.generators.protocol import Generator, GeneratorFacts

NAMES = tuple(each.name for each in facts.ALL)


_HERE = "scail2.synthesis.generators"
_CLASSES = {
    facts.PUPPETS: ("puppets", "PuppetGenerator"),
    facts.OWN: ("own_model", "OwnModelGenerator"),
    facts.WAN_ANIMATE: ("wan_animate", "WanAnimateGenerator"),
    facts.WAN_ANIMATE_2: ("wan_animate_2", "WanAnimate2Generator"),
    facts.WAN_ANIMATE_2_DISTILLED: ("wan_animate_2", "WanAnimate2Generator"),
    facts.MOCHA: ("mocha", "MochaGenerator"),
    facts.SCAIL: ("scail1", "Scail1Generator"),
}


def facts_of(name: str) -> GeneratorFacts:
    """The facts of a generator; raises InputError for an unknown name."""
    found = next((each for each in facts.ALL if each.name == name), None)
    if found is None:
        raise InputError(f"There is no generator {name!r}: choose one of {', '.join(NAMES)}.")
    return found


def make_generator(name: str, settings: Mapping[str, Any], where: str) -> Generator:
    """A generator from plain settings, as a TOML table holds them; `where` says whose they are, for errors.

    Paths are taken as they are. Nothing is loaded before the first clip.

    Raises:
        InputError: an unknown name or setting, a value of the wrong kind, or one that is missing.
    """
    module, kind = _CLASSES[facts_of(name)]
    # Imported only now: most bring heavy libraries.
    made = decode(dict(settings), getattr(import_module(f"{_HERE}.{module}"), kind), where)
    return replace(made, distilled=True) if name == facts.WAN_ANIMATE_2_DISTILLED.name else made
