"""Settings from a TOML file, the environment over it, and secrets from files and systemd credentials.

Relative paths in the file are relative to the file's folder (the SQLite file too), those in the environment to the
working directory. A secret comes from the first of: the environment (`MONITOR__ACCOUNTS__ACME__API_KEY`, or the same
with `_FILE`), the file (`api_key` or `api_key_file`), `$CREDENTIALS_DIRECTORY/accounts.acme.api_key`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from monitor.config.complaints import Location, Places, describe, dotted, toml_lines, unknown, variable
from monitor.config.secrets import is_shared, read_secret
from monitor.config.settings import ENV_PREFIX, Settings
from monitor.config.values import is_loopback
from monitor.errors import ConfigError

DEFAULT_FILES = (Path("monitor.toml"), Path("config/monitor.toml"))
Values = dict[str, Any]
_SECRET_KEY: Location = ("secret_key",)


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of `path`, else of `MONITOR_CONFIG`, else the first of `DEFAULT_FILES` that is there.

    Raises:
        ConfigError: one line for each thing that is wrong: setting, place, fix.
    """
    file = _file(path, environ)
    text = _read(file) if file else ""
    places = Places(file, toml_lines(text), frozenset(environ))
    problems: list[tuple[Location, str]] = []
    base = file.parent.absolute() if file else Path.cwd()
    from_file = _anchored(_parsed(text, file), base)
    from_environment = _anchored(_Environment(environ, from_file).values(problems), Path.cwd())
    if file:
        problems += _exposed(file, from_file)
    for source in (from_file, from_environment):
        problems += _doubled(source)
    values = _merged(from_file, from_environment)
    problems += _resolve_secrets(values, environ)
    settings = _validated(_with_default_paths(values, base), problems)
    if problems or settings is None:
        raise ConfigError("\n".join(dict.fromkeys(places.complaint(location, text) for location, text in problems)))
    return settings


@dataclass(frozen=True, slots=True)
class SecretOrigin:
    """Where one secret comes from: `file`, which is the settings file where `in_settings`; None: the environment."""

    setting: str
    file: Path | None
    in_settings: bool = False


def secret_origins(path: Path | None, environ: Mapping[str, str]) -> Iterator[SecretOrigin]:
    """Where the secrets come from, none of them read. Raises `ConfigError` as `load_settings` does.

    What opens only a server on this machine is no secret, nor is a database address without a password.
    """
    file = _file(path, environ)
    base = file.parent.absolute() if file else Path.cwd()
    from_file = _anchored(_parsed(_read(file) if file else "", file), base)
    from_environment = _anchored(_Environment(environ, from_file).values([]), Path.cwd())
    given = {location: table for location, table, key in _secret_slots(from_environment) if key in table}
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    for location, table, key in _secret_slots(_merged(from_file, from_environment)):
        paths = table.get(f"{key}_file")
        credential = Path(credentials, dotted(location)) if credentials else None
        if paths is not None:
            for each in paths if isinstance(paths, list) else [paths]:
                yield SecretOrigin(dotted(location), Path(each))
        elif location in given:
            yield SecretOrigin(dotted(location), None)
        elif key in table and file is not None:
            if _is_secret(table, key):
                yield SecretOrigin(dotted(location), file.absolute(), in_settings=True)
        elif credential is not None and credential.exists():
            yield SecretOrigin(dotted(location), credential)


def default_file() -> Path | None:
    """The settings file of the working directory; None when there is none."""
    return next((file for file in DEFAULT_FILES if file.exists()), None)


def _file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is None and environ.get("MONITOR_CONFIG"):
        path = Path(environ["MONITOR_CONFIG"])
    path = path or default_file()
    if path is None and not any(name.upper().startswith(ENV_PREFIX) for name in environ):
        raise ConfigError("no configuration: pass --config FILE or set MONITOR_CONFIG; `monitor init` writes a file")
    return path


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file; `monitor init {file}` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{file}: cannot be read ({reason})") from None


def _parsed(text: str, file: Path | None) -> Values:
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: is not valid TOML: {error}") from None


class _Environment(EnvSettingsSource):
    """pydantic-settings' reading of nested variables, from the mapping that was handed over."""

    def __init__(self, environ: Mapping[str, str], from_file: Values) -> None:
        self._given = {name.lower(): text for name, text in environ.items() if name.upper().startswith(ENV_PREFIX)}
        accounts = from_file.get("accounts")
        self._spelling = (
            {name.lower().replace("-", "_"): name for name in accounts} if isinstance(accounts, dict) else {}
        )
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._given

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """JSON where it is JSON; other text goes on to the field, which says better what it wants."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value

    def values(self, problems: list[tuple[Location, str]]) -> Values:
        """The nested values; a variable that names no setting is a problem, as an unknown key of the file is."""
        for name in self._given:
            path = tuple(name.removeprefix(ENV_PREFIX.lower()).split("__"))
            if path[0] not in Settings.model_fields and path[0] != "":
                problems.append((path[:1], unknown(path[:1])))
        values: Values = self()
        accounts = values.get("accounts")
        if isinstance(accounts, dict):
            # A variable's name has no dash: MONITOR__ACCOUNTS__ACME_EU__… means the file's [accounts.acme-eu].
            values["accounts"] = {self._spelling.get(name, name): table for name, table in accounts.items()}
        return values


def _merged(below: Any, above: Any) -> Any:
    """`above` wins, table by table; a secret given above replaces both of its forms below."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    merged = {key: value for key, value in below.items() if not _replaced(key, above)}
    for key, value in above.items():
        merged[key] = _merged(below[key], value) if key in below else value
    return merged


def _replaced(key: str, above: Values) -> bool:
    return f"{key}_file" in above or key.removesuffix("_file") in above


def _accounts(values: Values) -> Iterator[tuple[str, Values]]:
    accounts = values.get("accounts")
    if isinstance(accounts, dict):
        yield from ((name, table) for name, table in accounts.items() if isinstance(table, dict))


def _secret_slots(values: Values) -> Iterator[tuple[Location, Values, str]]:
    """Each place where a secret may stand: its location, its table and its key there."""
    yield _SECRET_KEY, values, "secret_key"
    for table, key in (("database", "url"), ("smtp", "password"), ("alerts", "urls")):
        if isinstance(values.get(table), dict):
            yield (table, key), values[table], key
    for name, account in _accounts(values):
        yield ("accounts", name, "api_key"), account, "api_key"
        yield ("accounts", name, "webhook_secret"), account, "webhook_secret"
        if isinstance(account.get("smtp"), dict):
            yield ("accounts", name, "smtp", "password"), account["smtp"], "password"


def _doubled(source: Values) -> Iterator[tuple[Location, str]]:
    for location, table, key in _secret_slots(source):
        if key in table and f"{key}_file" in table:
            yield location, f"is given twice, as {key} and as {key}_file; remove one"
    for name, account in _accounts(source):
        if "name" in account:
            yield ("accounts", name, "name"), "is no setting; the account's name is the table's"


def _exposed(file: Path, from_file: Values) -> Iterator[tuple[Location, str]]:
    """A secret written into the file makes the file a secret file."""
    if not is_shared(file.stat().st_mode):
        return
    for location, table, key in _secret_slots(from_file):
        if key in table and _is_secret(table, key):
            yield (
                location,
                f"stands in a file that others can read; chmod 600 it, or use {key}_file or {variable(location)}",
            )


def _is_secret(table: Values, key: str) -> bool:
    """What opens only a server on this machine, such as the sandbox, is no secret; nor is a URL without a password."""
    if key == "url":
        return urlsplit(str(table[key])).password is not None
    return not is_loopback(str(urlsplit(str(table.get("base_url"))).hostname))


def _resolve_secrets(values: Values, environ: Mapping[str, str]) -> list[tuple[Location, str]]:
    """Puts the secrets of files and credentials into `values`; what could not be read is returned and left out."""
    problems: list[tuple[Location, str]] = []
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    for location, table, key in _secret_slots(values):
        paths = table.pop(f"{key}_file", None)
        if paths is None and key not in table and credentials:
            credential = Path(credentials) / dotted(location)
            paths = credential if credential.exists() else None
        if paths is None:
            continue
        if location == _SECRET_KEY:
            table["secret_key_file"] = paths  # read where the key is used, with its own complaints
            continue
        if not isinstance(paths, str | Path | list):
            problems.append((location, f"{key}_file must be a path in quotes"))
            continue
        try:
            read = [read_secret(Path(path)) for path in (paths if isinstance(paths, list) else [paths])]
        except (ConfigError, TypeError) as error:
            problems.append((location, str(error)))
            continue
        table[key] = read if isinstance(paths, list) else read[0]
    return problems


def _validated(values: Values, problems: list[tuple[Location, str]]) -> Settings | None:
    """The settings, or None with the problems added; what was complained of already is not complained of twice."""
    try:
        return Settings(**values)
    except ValidationError as error:
        known = {location for location, _ in problems}
        problems += [found for found in map(describe, error.errors()) if found[0] not in known]
        return None


def _anchored(values: Values, base: Path) -> Values:
    """`values` with every relative path made absolute from `base`."""
    anchored = dict(values)
    for key in ("state_dir", "secret_key_file", "templates_dir"):
        _anchor(anchored, key, base)
    for table in ("database", "smtp", "alerts"):
        if isinstance(anchored.get(table), dict):
            anchored[table] = _anchored_table(anchored[table], base)
    if isinstance(anchored.get("accounts"), dict):
        anchored["accounts"] = {
            name: _anchored_table(table, base) if isinstance(table, dict) else table
            for name, table in anchored["accounts"].items()
        }
    return anchored


def _anchored_table(table: Values, base: Path) -> Values:
    anchored = dict(table)
    for key in ("campaigns", "api_key_file", "webhook_secret_file", "password_file", "url_file", "urls_file"):
        _anchor(anchored, key, base)
    url = anchored.get("url")
    if isinstance(url, str) and url.startswith("sqlite") and ":///" in url and ":memory:" not in url:
        scheme, _, path = url.partition(":///")
        anchored["url"] = f"{scheme}:///{_joined(base, path)}" if path else url
    if isinstance(anchored.get("smtp"), dict):
        anchored["smtp"] = _anchored_table(anchored["smtp"], base)
    return anchored


def _with_default_paths(values: Values, base: Path) -> Values:
    """The defaults that are paths are relative to the file's folder too, not to wherever the command was started."""
    defaults = _anchored({"state_dir": "var", "database": {"url": "sqlite:///monitor.db"}}, base)
    completed = {**defaults, **values}
    if completed["database"] == {}:
        completed["database"] = defaults["database"]
    return completed


def _anchor(table: Values, key: str, base: Path) -> None:
    value = table.get(key)
    if isinstance(value, str) and value:
        table[key] = _joined(base, value)
    elif isinstance(value, list):
        table[key] = [_joined(base, path) if isinstance(path, str) else path for path in value]


def _joined(base: Path, path: str) -> str:
    return os.path.normpath(base / path)
