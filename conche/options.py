"""The options of a task, as its annotations say them, and their values, as the command line gives them."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from conche.errors import Refused

__all__ = ["EnvironmentName", "convert", "environments_filled", "options_of", "presented", "refuse_eaten_options"]

EnvironmentName = Annotated[str, "environment in stack.yaml"]


def options_of(body: Callable[..., object]) -> dict[str, tuple[Any, str]]:
    """Return type and help text of each option, from the annotations.

    Task files omit `from __future__ import annotations`: evaluating its strings would cost each start-up more than
    everything else that this module does. They quote only what a task returns, which is imported when one runs.
    """
    hints = {name: hint for name, hint in body.__annotations__.items() if name != "return"}
    if any(isinstance(hint, str) for hint in hints.values()):
        hints = typing.get_type_hints(body, include_extras=True)
    options = {}
    for parameter in list(inspect.signature(body).parameters)[1:]:
        kind, text = typing.get_args(hints[parameter])[:2]
        options[parameter] = (kind, text)
    return options


def presented(
    signature: inspect.Signature, options: Mapping[str, tuple[Any, str]], shared: Mapping[str, str]
) -> inspect.Signature:
    """Return the signature that Invoke reads: the body's options, then the shared ones with their defaults."""
    by_name = inspect.Parameter.KEYWORD_ONLY
    first, *rest = signature.parameters.values()
    own = [one.replace(kind=by_name, default=_for_invoke(one.default, options[one.name])) for one in rest]
    switches = [inspect.Parameter(name, by_name, default=None if name == "lock_wait" else False) for name in shared]
    return inspect.Signature([first, *own, *switches])


def _for_invoke(default: Any, option: tuple[Any, str]) -> Any:
    """Adapt a default: Invoke casts to its type, with a traceback for a wrong number, and appends only to a list."""
    kind, _ = option
    if default is inspect.Parameter.empty or default is None:
        return default
    if _names_environment(option):
        return None  # Invoke cannot tell a default from a typed value
    if kind == list[str]:
        return list(default)
    return str(default) if kind in (int, float, int | None, float | None) else default


def _names_environment(option: tuple[Any, str]) -> bool:
    return option == typing.get_args(EnvironmentName)


def environments_filled(
    body: Callable[..., object],
    options: Mapping[str, tuple[Any, str]],
    given: dict[str, Any],
    unless_said: Callable[[str], str],
) -> dict[str, Any]:
    """Fill in environments that were not named.

    Args:
        unless_said: returns the environment that is meant, given the task's default.
    """
    parameters = inspect.signature(body).parameters
    unsaid = [name for name, value in given.items() if value is None and _names_environment(options[name])]
    return {**given, **{name: unless_said(parameters[name].default) for name in unsaid}}


def refuse_eaten_options(body: Callable[..., object], given: dict[str, Any], dotted: str) -> None:
    """Refuse an option in the place of a positional argument: Invoke puts `--help` and unknown options there."""
    for parameter in inspect.signature(body).parameters.values():
        value = given.get(parameter.name)
        # A dash by itself means standard input, as everywhere.
        if parameter.default is inspect.Parameter.empty and isinstance(value, str) and re.match("-.", value):
            # What does not look like an option may be a pasted value, and is not repeated.
            said = repr(value) if re.fullmatch("--?[a-z][a-z-]*|-.", value) else "an argument that begins with a dash"
            raise Refused(
                "argument-missing",
                f"{dotted} needs {parameter.name.replace('_', '-')} before {said}.",
                next_command=f"invoke --help {dotted}",
            )


def convert(option: str, kind: Any, value: Any, dotted: str) -> Any:
    """Convert text from Invoke to the number that an option takes, and refuse what is none."""
    for number in (int, float):
        if kind not in (number, number | None) or not isinstance(value, str):
            continue
        try:
            converted = number(value)
        except ValueError:
            converted = -1
        if not 0 <= converted < float("inf"):
            raise Refused(
                "not-a-number",
                f"--{option.replace('_', '-')} takes a number, 0 or more, not {value!r}.",
                next_command=f"invoke --help {dotted}",
            )
        return converted
    return value
