"""The options of the command line on its page: a fence ```options with a command's name becomes the table of them.

What the table says is what `tms COMMAND --help` says, as both are read from the same declarations.
"""

import html
import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

_FENCE = re.compile(r"^```options\n(.*?)\n```$", re.MULTILINE)


def with_options(markdown: str) -> str:
    """The same page with every `options` fence as a table."""
    return _FENCE.sub(lambda found: table(found[1]), markdown)


def table(command: str) -> str:
    """A row per argument and option of a command: how it is written, what it is for, what it is if not given.

    Raises:
        ValueError: no such command.
    """
    there = commands()
    if command not in there:
        raise ValueError(f"docs/command_line.md: there is no command {command!r}; there are {', '.join(there)}")
    kinds = get_type_hints(there[command].callback)
    rows = "".join(_row(each, kinds[each.name]) for each in there[command].params)
    head = "<thead><tr><th>argument or option</th><th>what</th><th>if not given</th></tr></thead>"
    return f"<table>{head}<tbody>{rows}</tbody></table>"


def commands() -> dict[str, Any]:
    """Every command of `tms` by its name."""
    from typer.main import get_command

    from tms_hooks.cli import app

    return dict(get_command(app).commands)  # type: ignore[attr-defined]


def _row(option: Any, kind: Any) -> str:
    is_argument = option.param_type_name == "argument"
    written = [option.metavar or option.name.upper()] if is_argument else [*option.opts, *option.secondary_opts]
    chosen = next((get_args(each) for each in (kind, *get_args(kind)) if get_origin(each) is Literal), ())
    what = html.escape(option.help) + (f" One of {', '.join(map(_code, chosen))}." if chosen else "")
    default = option.show_default if isinstance(option.show_default, str) else option.default
    unset = default is None or (default is False and not option.secondary_opts)
    if isinstance(default, bool) and not unset:
        default = option.opts[0] if default else option.secondary_opts[0]
    plain = isinstance(option.show_default, str)
    given = "" if unset else html.escape(default) if plain else _code(default)
    return f"<tr><td>{', '.join(map(_code, written))}</td><td>{what}</td><td>{given}</td></tr>"


def _code(text: object) -> str:
    return f"<code>{html.escape(str(text))}</code>"
