"""Command-line options made from the fields of `AnimationRequest`: one schema, so options and settings cannot differ."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from scail2.checkpoints.downloads import HUB_PREFIX
from scail2.checkpoints.model_folder import check_model
from scail2.errors import InputError
from scail2.files.public.embedded import refuse_missing_lora
from scail2.files.user_paths import expanded, split_lora
from scail2.modes import AnimationMode
from scail2.request.animation import AnimationRequest, read_toml
from scail2.request.masks import MaskRequest
from scail2.request.names import EARLIER_OPTIONS
from scail2.request.values import PANELS


def request_parameters(
    request: type[MaskRequest] = AnimationRequest, *, leave_out: frozenset[str] = frozenset()
) -> list[inspect.Parameter]:
    """One keyword parameter with a typer option for every setting; None means "not given"."""
    skipped = {"mode"} | leave_out
    settings = [each for each in fields(request) if each.name not in skipped]
    ordered = sorted(settings, key=lambda each: PANELS.index(each.metadata["panel"]))
    return [parameter for each in ordered for parameter in _parameters(each)]


def _parameters(setting: Field) -> list[inspect.Parameter]:
    """A setting's own; for one that takes a value or is switched off (``--audio FILE``, ``--no-audio``) the switch, too."""
    option = setting.metadata.get("option") or ""
    name, _, off = option.partition("/")
    if not off or _plain_type(setting.type) is bool:
        return [_parameter(setting, option)]
    switch = typer.Option(off, help="None of it.", rich_help_panel=setting.metadata["panel"], show_default=False)
    annotated = Annotated[bool | None, switch]
    without = inspect.Parameter(
        off_name(setting.name), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotated
    )
    return [_parameter(setting, name), without]


def off_name(name: str) -> str:
    """The parameter that switches a setting off which otherwise takes a value."""
    return f"no_{name}"


def _parameter(setting: Field, option: str) -> inspect.Parameter:
    repeatable = get_origin(setting.type) is tuple
    kind = _plain_type(setting.type)
    name = option or "--" + setting.name.replace("_", "-")
    if kind is bool and "/" not in name:
        name = f"{name}/--no-{name[2:]}"
    option = typer.Option(
        name,
        *EARLIER_OPTIONS.get(setting.name, ()),
        help=_help(setting, repeatable),
        metavar=setting.metadata.get("metavar"),
        rich_help_panel=setting.metadata["panel"],
        show_default=False,
    )
    accepted: Any = list[kind] | None if repeatable else kind | None  # type: ignore[valid-type]
    annotated = Annotated[accepted, option]
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotated)


def _plain_type(annotation: Any) -> type:
    """str, int, float or bool: the request itself checks choices and paths, with its own sentences."""
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    options = [each for each in get_args(annotation) or (annotation,) if each is not type(None)]
    kind = options[0]
    return kind if kind in (bool, int, float) else str


def _help(setting: Field, repeatable: bool) -> str:
    default = setting.default
    if repeatable or default in (None, MISSING, "", False) or (default is True and setting.type is not bool):
        return setting.metadata["help"]
    return f"{setting.metadata['help']} [default: {'yes' if default is True else default}]"


def with_parameters(function: Callable, parameters: list[inspect.Parameter]) -> Callable:
    """Gives a function that takes ``**settings`` the signature typer reads: its own parameters, then these."""
    added = {each.name for each in parameters}  # already there when the command is built twice in one process
    own = [each for each in inspect.signature(function).parameters.values() if each.kind is not each.VAR_KEYWORD]
    own = [each for each in own if each.name not in added]
    together = own + parameters
    function.__signature__ = inspect.Signature(together)  # type: ignore[attr-defined]
    function.__annotations__ = {each.name: each.annotation for each in together}
    return function


def make_request(
    mode: AnimationMode | None, file: Path | None, settings: dict[str, Any], *, output: Path | None = None
) -> AnimationRequest:
    """The request of a command: a TOML file's settings, and over them whatever was given as options.

    ``output`` is used where neither states one.
    """
    given = _given(settings)
    base: dict[str, Any] = {}
    if file is not None:
        if file.suffix.lower() != ".toml":
            raise InputError(
                f"{file} is not a .toml settings file; name the picture with --reference, the video with --driving."
            )
        base = read_toml(file)
    if mode is not None:
        stated = base.get("mode")
        if stated is not None and AnimationMode.parse(stated) is not mode:
            verb = {AnimationMode.ANIMATION: "animate", AnimationMode.REPLACEMENT: "replace"}[
                AnimationMode.parse(stated)
            ]
            raise InputError(f"{file} asks for {stated}; use `scail2 {verb} {file}`.")
        base["mode"] = mode
    unstated = {"output": output} if output is not None else {}
    request = AnimationRequest.from_settings(unstated | base | given, where=str(file or "the command line"))
    check_model(request.model)
    _check_sampling(request)
    return request


def _check_sampling(request: AnimationRequest) -> None:
    """Refuses a LoRA that is not there, and a preset that is tuned for LoRAs where none is named, before anything is loaded."""
    for each in request.lora:
        check_lora(each)
    if request.preset is not None:
        from scail2.request.presets import preset

        if not request.lora:
            preset(request.preset).refuse_without_loras()


def check_lora(text: str) -> None:
    """Refuses a LoRA (PATH[:X]) that is not there; one on the Hub is looked for when it is loaded."""
    if not text.startswith(HUB_PREFIX):
        refuse_missing_lora(Path(split_lora(text)[0]))


def must_exist(path: str | Path | None, option: str) -> None:
    """Refuses a path that was given for an option and where nothing is, before anything heavy is imported."""
    if path is not None and not expanded(path).exists():
        raise InputError(f"{option}: there is no file or folder {path}.")


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    """What was given as options, a setting that was switched off among them."""
    given = {name: value for name, value in settings.items() if value not in (None, [])}
    for name in [each.name for each in fields(AnimationRequest)]:
        if given.pop(off_name(name), False):
            if name in given:
                raise InputError(f"--{name} and --no-{name} contradict each other; leave one out.")
            given[name] = False
    return given


def make_mask_request(mode: str, settings: dict[str, Any]) -> MaskRequest:
    """The request of `scail2 masks`, from what was given as options."""
    given = {name: value for name, value in settings.items() if value not in (None, [])}
    return MaskRequest.from_settings({"mode": mode} | given, where="the command line")


def need(module: str, extra: str, what: str) -> None:
    """Refuses to go on without an optional package.

    Raises:
        InputError: `module` is not installed; the sentence names the extra that brings it.
    """
    if find_spec(module) is None:
        raise InputError(f"{what} needs the package {module}: install it with `pip install 'scail2[{extra}]'`")


def parse_size(text: str) -> tuple[int, int]:
    """`"128"` → (128, 128), `"96x160"` → height 96, width 160.

    Raises:
        InputError: anything else.
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"--size is one number or HEIGHTxWIDTH in pixels, not {text!r}")
    return int(parts[0]), int(parts[-1])
