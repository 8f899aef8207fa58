"""The command: play the scenes, tell them, write the pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from monitor.cli import console
from monitor.cli.console import Format, FormatOption
from monitor.cli.demo import story, telling, till_story
from monitor.cli.demo.pages import write_pages
from monitor.cli.demo.stage import Played, Speaks, staged
from monitor.cli.exits import Exit
from monitor.cli.stop import Stop
from monitor.sandbox.mailbox import CaughtMail

DEFAULT_FOLDER = Path("demo")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Examples:  `monitor demo`   `monitor demo --keep /tmp/mails`", rich_help_panel="Try out")(demo)


def demo(
    keep: Annotated[
        Path, typer.Option("--keep", help="The folder for mails and database; made anew.")
    ] = DEFAULT_FOLDER,
    provider: Annotated[Speaks, typer.Option("--provider", help="Which API the demo's account speaks.")] = Speaks.V2,
    output_format: FormatOption = Format.TABLE,
) -> None:
    """See the whole product at work in seconds, with no key: three simulated days, and every mail to look at."""

    async def body(stop: Stop) -> int:
        out = console.stdout()
        out.quiet = output_format is Format.JSON
        played: list[Played] = []
        play = till_story.play() if provider is Speaks.PLATFORM else story.play()
        telling.tell_beginning(out, play)
        async with staged(play.world, keep, provider, till=play.till) as stage:
            for scene in play.scenes:
                if stop():
                    return Exit.FAILURES
                played.append(await stage.play(scene))
                telling.tell_scene(out, played[-1])
            again = await stage.run(replace(played[-1].scene, title="And once more", told="The same run again."))
            telling.tell_again(out, again)
            if play.hiccup is not None:
                played.append(await stage.play(play.hiccup))
                telling.tell_scene(out, played[-1])
            caught = list(stage.caught)
        index = write_pages(keep, played, caught)
        telling.tell_end(out, played, caught, keep, index)
        if output_format is Format.JSON:
            console.print_json(_as_json(played, again, caught, keep, index))
        return Exit.DONE if not again.lines else Exit.FAILURES

    console.operate(body)


def _as_json(
    played: Sequence[Played], again: Played, caught: Sequence[CaughtMail], folder: Path, index: Path
) -> dict[str, object]:
    return {
        "scenes": [one.as_json() for one in played],
        "again": again.as_json(),
        "sent": len(caught),
        "folder": str(folder),
        "index": str(index),
    }
