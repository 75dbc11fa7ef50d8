"""Optional packages: said in one sentence, before any work is done."""

from importlib.util import find_spec

from scail2.errors import InputError


def need(module: str, extra: str, what: str) -> None:
    """Refuses to go on without an optional package.

    Raises:
        InputError: `module` is not installed; the sentence names the extra that brings it.
    """
    if find_spec(module) is None:
        raise InputError(f"{what} needs the package {module}: install it with `pip install 'scail2[{extra}]'`")
