"""The plan of a synthesis: a typed TOML file that says what pairs are made of, by whom, and how often things may fail."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from scail2.data.endpoint.account import Account
from scail2.data.endpoint.settings import EndpointSettings
from scail2.data.triplet_settings import PUBLISHED_SHARES, SampleKind
from scail2.errors import InputError
from scail2.files.documents import Between, DocumentError, decode, load_toml
from scail2.files.user_paths import expanded
from scail2.modes import AnimationMode
from scail2.synthesis.bench import Bench, ClipCheck
from scail2.synthesis.generators.catalogue import make_generator
from scail2.synthesis.generators.protocol import Generator
from scail2.synthesis.machine import Budget, begin
from scail2.synthesis.pools.protocol import CharacterPool, MotionPool
from scail2.synthesis.roles.protocol import Captioner, Judge, PoseEditor, Roles, Selector, Weaver

T = TypeVar("T")
Table = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RoleTables:
    """Who plays each role, and how: `play` names the player, the rest are its settings."""

    selector: Table = field(default_factory=dict)
    weaver: Table = field(default_factory=dict)
    editor: Table = field(default_factory=dict)
    judge: Table = field(default_factory=dict)
    captioner: Table = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GeneratorTables:
    """What makes the clips of each mode: `name` of a generator, the rest are its settings."""

    animation: Table = field(default_factory=lambda: {"name": "puppets"})
    replacement: Table = field(default_factory=lambda: {"name": "puppets"})


@dataclass(frozen=True, kw_only=True)
class SynthesisPlan:
    """Everything that decides what comes out, and how much of it.

    Attributes:
        pairs: to make.
        attempts: at each of them, before its place stays empty.
        candidates: characters that the selector chooses from.
        in_flight: pairs in the making at once, in each worker: while one waits for an endpoint, another has the GPU.
        shares: of the constructions; the published ones where nothing is said.
        motions, characters: `pool` names the kind of pool, the rest are its settings.
        endpoint: that the roles ask which are played by one.
        check: of whole clips, `play` and settings.
    """

    pairs: Annotated[int, Between(1, 10**8)]
    seed: Annotated[int, Between(0, 2**31)] = 0
    pairs_per_shard: Annotated[int, Between(1, 10**5)] = 16
    attempts: Annotated[int, Between(1, 100)] = 3
    candidates: Annotated[int, Between(1, 100)] = 4
    in_flight: Annotated[int, Between(1, 1000)] = 1
    shares: dict[SampleKind, float] = field(default_factory=lambda: dict(PUBLISHED_SHARES))
    budget: Budget = field(default_factory=Budget)
    motions: Table = field(default_factory=lambda: {"pool": "puppets"})
    characters: Table = field(default_factory=lambda: {"pool": "puppets"})
    roles: RoleTables = field(default_factory=RoleTables)
    endpoint: EndpointSettings | None = None
    generators: GeneratorTables = field(default_factory=GeneratorTables)
    check: Table = field(default_factory=lambda: {"play": "none"})

    def __post_init__(self) -> None:
        if not self.shares or min(self.shares.values()) < 0 or sum(self.shares.values()) <= 0:
            raise InputError("The plan's shares must not be negative, and at least one must be above 0.")
        for kind, share in self.shares.items():
            if share:
                begin(kind)

    def kinds(self) -> list[SampleKind]:
        """The construction of every pair: at any number of pairs each has its share, to within one."""
        total = sum(self.shares.values())
        weights = {kind: share / total for kind, share in self.shares.items() if share}
        counts = dict.fromkeys(weights, 0)
        chosen = []
        for number in range(1, self.pairs + 1):
            kind = max(weights, key=lambda each: weights[each] * number - counts[each])
            counts[kind] += 1
            chosen.append(kind)
        return chosen


def load_plan(path: Path) -> SynthesisPlan:
    """A plan from its file; paths in it are taken from the file's folder.

    Raises:
        InputError: it is not such a plan; the sentence names the key.
        OSError: it cannot be read.
    """
    plan = load_toml(path, SynthesisPlan)
    folder = path.absolute().parent
    for table in (
        plan.motions,
        plan.characters,
        plan.roles.editor,
        plan.generators.animation,
        plan.generators.replacement,
    ):
        _anchor(table, folder)
    return plan


_PATHS = frozenset({"folders", "manifest", "model", "python", "folder"})


def _anchor(table: Table, folder: Path) -> None:
    """Paths of a table that begin with a dot or a tilde, or are there beside the plan, made absolute."""
    for name, value in table.items():
        if name in _PATHS and isinstance(value, str):
            table[name] = _anchored(value, folder)
        elif name in _PATHS and isinstance(value, list):
            table[name] = [_anchored(each, folder) if isinstance(each, str) else each for each in value]
        elif isinstance(value, dict):
            _anchor(value, folder)


def _anchored(value: str, folder: Path) -> str:
    place = folder / expanded(value)
    return str(place) if value.startswith((".", "~")) or place.exists() else value


# ---- from tables to things -----------------------------------------------------------------------------------------


def make_bench(plan: SynthesisPlan, where: str, account: Account | None = None) -> Bench:
    """What the plan names, ready to work; models are loaded when they are first needed.

    Args:
        where: the plan's name, for errors.
        account: where the endpoint's costs are summed.

    Raises:
        InputError: an unknown name or setting; an extra that is not installed; a role for an endpoint that is not given.
    """
    return Bench(
        motions=_chosen(plan.motions, "pool", _motion_pools(), where, "motions"),
        characters=_chosen(plan.characters, "pool", _character_pools(), where, "characters"),
        roles=_roles(plan, where, account),
        generators=_generators(plan, where),
        check=_chosen(plan.check, "play", _checks(), where, "check"),
        budget=plan.budget,
        candidates=plan.candidates,
        seed=plan.seed,
    )


Maker = Callable[[Table, str, str], Any]


def _of(kind: type[T]) -> Callable[[Table, str, str], T]:
    return lambda table, where, key: decode(table, kind, where, key)


def _chosen(table: Table, name: str, makers: Mapping[str, Maker], where: str, key: str) -> Any:
    settings = dict(table)
    chosen = settings.pop(name, None)
    if not isinstance(chosen, str) or chosen not in makers:
        raise DocumentError(f"{where}: {key}.{name} must be one of {', '.join(makers)}, not {chosen!r}.")
    return makers[chosen](settings, where, key)


def _motion_pools() -> dict[str, Callable[[Table, str, str], MotionPool]]:
    from scail2.synthesis.pools.drawn import DrawnMotions
    from scail2.synthesis.pools.stored import StoredMotions

    return {"puppets": _of(DrawnMotions), "shards": _of(StoredMotions)}


def _character_pools() -> dict[str, Callable[[Table, str, str], CharacterPool]]:
    from scail2.synthesis.pools.drawn import DrawnCharacters
    from scail2.synthesis.pools.stored import PicturedCharacters

    return {"puppets": _of(DrawnCharacters), "pictures": _of(PicturedCharacters)}


def _checks() -> dict[str, Callable[[Table, str, str], ClipCheck]]:
    from scail2.synthesis.whole_clips import MeasuredClips, Unmeasured

    return {"none": _of(Unmeasured), "measures": _of(MeasuredClips)}


def _generators(plan: SynthesisPlan, where: str) -> dict[AnimationMode, Generator]:
    tables = {
        AnimationMode.ANIMATION: plan.generators.animation,
        AnimationMode.REPLACEMENT: plan.generators.replacement,
    }
    needed = {kind.mode for kind, share in plan.shares.items() if share and not kind.is_pose}
    made = {}
    for mode in sorted(needed):
        settings = dict(tables[mode])
        name = settings.pop("name", None)
        if not isinstance(name, str):
            raise DocumentError(f"{where}: generators.{mode.value}.name names no generator.")
        made[mode] = make_generator(name, settings, f"{where}, generators.{mode.value}")
        made[mode].facts.check(mode)
    return made


def _roles(plan: SynthesisPlan, where: str, account: Account | None) -> Roles:
    from scail2.synthesis.roles import puppets
    from scail2.synthesis.roles.picture_editor import DiffusersEditor

    asked = _Asked(plan, account)
    tables, otherwise = plan.roles, "puppets" if plan.endpoint is None else "endpoint"

    def chosen(name: str, table: Table, makers: dict[str, Maker], usual: str) -> Any:
        return _chosen({"play": usual, **table}, "play", makers, where, f"roles.{name}")

    selector: Selector = chosen(
        "selector", tables.selector,
        {"endpoint": asked.role("EndpointSelector"), "puppets": _of(puppets.PuppetSelector)}, otherwise,
    )  # fmt: skip
    weaver: Weaver = chosen(
        "weaver",
        tables.weaver,
        {"endpoint": asked.role("EndpointWeaver"), "puppets": _of(puppets.PuppetWeaver)},
        otherwise,
    )
    judge: Judge = chosen(
        "judge", tables.judge, {"endpoint": asked.role("EndpointJudge"), "puppets": _of(puppets.PuppetJudge)}, otherwise
    )
    captioner: Captioner = chosen(
        "captioner", tables.captioner,
        {"endpoint": asked.role("EndpointCaptioner"), "puppets": _of(puppets.PuppetCaptioner)}, otherwise,
    )  # fmt: skip
    editor: PoseEditor = chosen(
        "editor", tables.editor, {"diffusers": _of(DiffusersEditor), "puppets": _of(puppets.PuppetEditor)}, "puppets"
    )
    return Roles(selector=selector, weaver=weaver, editor=editor, judge=judge, captioner=captioner)


@dataclass(frozen=True, kw_only=True)
class _EndpointTable:
    frames: Annotated[int, Between(1, 100)] = 4


class _Asked:
    """Roles that ask the plan's endpoint: one client for all of them."""

    def __init__(self, plan: SynthesisPlan, account: Account | None) -> None:
        self._settings, self._account = plan.endpoint, account
        self._endpoint: Any = None

    def role(self, name: str) -> Maker:
        def make(table: Table, where: str, key: str) -> Any:
            if self._settings is None:
                raise InputError(
                    f"{where}: {key} is played by an endpoint, and the plan names none: give it a table [endpoint]."
                )
            settings = decode(table, _EndpointTable, where, key)
            try:
                from scail2.data.endpoint.client import Endpoint
                from scail2.synthesis.roles import endpoint as roles
            except ImportError as error:
                raise InputError(
                    f"Roles that are played by an endpoint need the extra `synthesis` ({error.name} is missing): "
                    "pip install 'scail2[synthesis]'."
                ) from error
            self._endpoint = self._endpoint or Endpoint(self._settings, self._account)
            return getattr(roles, name)(endpoint=self._endpoint, frames=settings.frames)

        return make
