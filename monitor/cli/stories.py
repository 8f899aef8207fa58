"""Print an explanation: one subscription after another, newest first; sent and not sent with equal weight."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from monitor.cli import console
from monitor.cli.remedies import complete, copyable
from monitor.domain.words import NOTHING, distance, moment, name_of
from monitor.usecases.explain import Explanation, Line, Story
from monitor.usecases.spells import Spell

_MARKS = {
    "sent": "✓",
    "not_sent": "✗",
    "waits": "…",
    "event": "·",
    "ended": "·",
    "seen": "·",
    "attempt": "!",
    "decision": "»",
}


def explanation_json(found: Explanation) -> dict[str, Any]:
    """Stable keys: asked, known_at, subscriptions with episodes (each step) and lines."""
    return {
        "asked": found.asked,
        "known_at": found.known_at,
        "subscriptions": [_story_json(story) for story in found.stories],
    }


def _story_json(story: Story) -> dict[str, Any]:
    values = asdict(story)
    values["episodes"] = [_spell_json(spell) for spell in values.pop("spells")]
    values["next"] = copyable(values["next"])
    values["lines"] = values.pop("lines")
    return values


def _spell_json(spell: dict[str, Any]) -> dict[str, Any]:
    steps = [{**step, "command": step["command"] and complete(step["command"])} for step in spell["steps"]]
    return {**spell, "steps": steps}


def print_explanation(found: Explanation) -> None:
    """For people."""
    for number, story in enumerate(found.stories):
        if number:
            console.say("")
        _print_story(story, found.known_at)


def _print_story(story: Story, known_at: datetime | None) -> None:
    zone = ZoneInfo(story.zone)
    who = " · ".join(part for part in (story.subscription or story.payment, story.product, story.address) if part)
    console.say(f"{who}   (account {story.account}, times in {story.zone})")
    if known_at is not None:
        console.say(f"As it was known on {moment(known_at, zone)}:")
    console.say(f"{story.summary}.")
    if story.next:
        console.say(f"Next: {story.next}.")
    if story.facts:
        console.say("Facts: " + " · ".join(f"{name} {value}" for name, value in story.facts.items()))
    if story.lines:
        console.say("")
    for line in story.lines:
        _print_line(line, zone, story.now)
    for spell in story.spells:
        _print_spell(spell, zone)


def _print_line(line: Line, zone: ZoneInfo, now: datetime) -> None:
    far = distance(line.at, now)
    when = moment(line.at, zone) if line.dated else f"{moment(line.at, zone)} or later"
    console.say(f"{when}{f' ({far})' if far else ''}")
    console.say(f"  {_MARKS[line.what]} {line.sentence}")
    if line.because:
        console.say(f"    because: {line.because}")


def _print_spell(spell: Spell, zone: ZoneInfo) -> None:
    ended = "open" if spell.closed_at is None else f"ended {moment(spell.closed_at, zone)}"
    muted = ", muted" if spell.muted else ""
    console.say("")
    console.say(f"Episode {name_of(spell.kind)}, since {moment(spell.opened_at, zone)}, {ended}{muted}")
    for step in spell.steps:
        when = moment(step.at, zone)
        console.say(f"  {step.sentence}{f' ({when})' if when != NOTHING else ''}")
        if step.because:
            console.say(f"    because: {step.because}")
        if step.message_id:
            console.say(f"    Message-ID {step.message_id}")
        if step.command:
            console.say(f"    {complete(step.command)}")
