"""The addresses of the databases. One that was read from a file is read again for each connection: passwords are rotated."""

from service.database_urls import translate
from service.postgres.addresses import Dsn
from service.secret_files import read_secret_files
from service.settings import Settings


def main_address(settings: Settings) -> Dsn:
    """The main database, perhaps through a pooler. Raises SettingsError if it is not set."""
    return _read_again("database_url", settings.dsn)


def direct_address(settings: Settings) -> Dsn:
    """The main database without a pooler. Raises SettingsError if it is not set."""
    if settings.database_direct_url is None:
        return main_address(settings)
    return _read_again("database_direct_url", settings.direct_dsn)


def contacts_address(settings: Settings) -> Dsn:
    """The contacts database. Raises SettingsError if it is not set."""
    if settings.contacts_database_url is None:
        return direct_address(settings)
    return _read_again("contacts_database_url", settings.contacts_dsn)


def _read_again(name: str, url: str) -> Dsn:
    """A function if `url` is what the setting's file contains, else `url`."""
    if _in_file(name) != url:
        return url
    return lambda: _in_file(name) or url  # the file may be missing while it is replaced


def _in_file(name: str) -> str | None:
    contents, _ = read_secret_files([name])
    try:
        return translate(contents[name]) if name in contents else None
    except ValueError:
        return None
