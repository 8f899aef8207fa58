"""Makes `monitor.1`, the manual page, from the commands' own help: `make generated` after a command has changed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer.main

from monitor.cli.exits import Exit
from monitor.cli.main import app
from monitor.config import DEFAULT_FILES

TARGET = Path(__file__).with_name("monitor.1")
EXITS = {
    Exit.DONE: "Done. Also when another run of the same account is in progress.",
    Exit.FAILURES: "Finished with failures: a partial pull, a mail that failed for good, a decision that was refused.",
    Exit.CONFIG: "Usage or settings: the line on the standard error names the setting, the place and the fix.",
    Exit.HELD: "The guard holds mails: `monitor outbox batches`, then `monitor outbox review` BATCH.",
}
INTERRUPTED = "Stopped cleanly by Ctrl-C or SIGTERM; the next start goes on."
ENVIRONMENT = {
    "MONITOR_CONFIG": "The settings file, where `--config` names none.",
    "MONITOR__SECTION__SETTING": "Stands over this setting of the file, such as MONITOR__SMTP__PORT over `smtp.port`.",
    "CREDENTIALS_DIRECTORY": "Set by systemd: secrets are read from the files there that are named like settings.",
    "NO_COLOR, COLUMNS": "Output without colour; its width where it goes to no terminal.",
}


def manual() -> str:
    """The whole page, in the language of man(7)."""
    command = typer.main.get_command(app)
    lines = [
        '.\\" Made by docs/make_manual.py from the commands themselves.',
        f'.TH MONITOR 1 "" "subscription-monitor {version("subscription-monitor")}" "User Commands"',
        ".ad l",  # ragged, and no word broken: commands are copied from here
        ".nh",
        ".SH NAME",
        "monitor \\- " + prose(command.help[0].lower() + command.help[1:].rstrip(".")),
        ".SH SYNOPSIS",
        "\\fBmonitor\\fR [\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGS\\fR]...",
        ".SH DESCRIPTION",
        prose(command.epilog),
        ".SH OPTIONS",
        *options(command, "monitor"),
        ".SH COMMANDS",
    ]
    for path, each in walk(command, "monitor"):
        lines += [f".SS {escaped(path)}", *entry(path, each)]
    lines += [".SH EXIT STATUS"]
    for code, text in EXITS.items():
        lines += [".TP", f"\\fB{int(code)}\\fR", prose(text)]
    lines += [".TP", "\\fB130, 143\\fR", prose(INTERRUPTED), ".SH ENVIRONMENT"]
    for name, text in ENVIRONMENT.items():
        lines += [".TP", f"\\fB{escaped(name)}\\fR", prose(text)]
    lines += [".SH FILES", ".TP", "\\fB" + escaped(", ".join(map(str, DEFAULT_FILES))) + "\\fR"]
    lines += [prose("The settings in the working folder; `monitor init` writes them, `monitor check` tries them.")]
    return "\n".join(lines) + "\n"


def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its words."""
    for name, each in command.commands.items():
        if each.hidden:
            continue
        if hasattr(each, "commands"):
            yield from walk(each, f"{path} {name}")
        else:
            yield f"{path} {name}", each


def entry(path: str, command: Any) -> list[str]:
    """One command: usage, what it does, its options, an example."""
    context = command.make_context(path, [], resilient_parsing=True)
    usage = " ".join(f"\\fI{escaped(piece)}\\fR" for piece in command.collect_usage_pieces(context))
    lines = [f"\\fB{escaped(path)}\\fR {usage}"]
    for paragraph in command.help.split("\n\n"):
        lines += [".PP", prose(paragraph)]
    lines += options(command, path)
    return [*lines, ".PP", *example(command.epilog)]


def example(epilog: str) -> list[str]:
    """What the help ends with; of several commands each gets a line."""
    label, *commands = re.split(r"\s{2,}", epilog.strip())
    lines = [prose(label)]
    for each in commands:
        lines += [".br", prose(each)]
    return lines


def options(command: Any, path: str) -> list[str]:
    """Options and arguments with their help."""
    context = command.make_context(path, [], resilient_parsing=True)
    lines = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            lines += [".TP", f"\\fB{escaped(record[0])}\\fR", prose(record[1]) or "\\&"]
    return lines


def prose(text: str) -> str:
    """One paragraph of the help; what stands in backticks becomes bold."""
    flat = " ".join(text.split())
    shown = re.sub(r"`([^`]+)`", lambda match: f"\\fB{match[1]}\\fR", escaped(flat))
    return f"\\&{shown}" if shown.startswith((".", "'")) else shown


def escaped(text: str) -> str:
    """Text that roff prints as it stands: no dash for a hyphen, and lists of choices break where they can."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("'", "\\(aq").replace("|", "|\\:")


if __name__ == "__main__":
    TARGET.write_text(manual(), encoding="utf-8")
    sys.stdout.write(f"{TARGET} is written\n")
