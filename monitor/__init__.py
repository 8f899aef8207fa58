"""Subscription monitor: pulls states, names what changed, mails each customer once."""

__version__ = "0.1.0"
