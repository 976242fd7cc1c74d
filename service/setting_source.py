"""Reads the settings from the environment of this process, and from the files that it names."""

import os

from pydantic import ValidationError

from service.secret_files import read_secret_files
from service.setting_names import undecodable_names, unknown_names
from service.setting_types import faults, unusable_ca_bundle
from service.settings import Settings, SettingsError


def load() -> Settings:
    """Read the settings. Raises SettingsError that lists all invalid settings."""
    if broken := undecodable_names(os.environb, map(str.upper, Settings.model_fields)):
        raise SettingsError("\n".join(f"{name} is not valid UTF-8" for name in broken))
    secrets, errors = read_secret_files(_secrets())
    settings = None
    try:
        settings = Settings(**secrets)
    except ValidationError as error:
        errors += faults(error, Settings.model_fields)
    errors += unusable_ca_bundle()
    if errors or settings is None:
        raise SettingsError("\n".join([*errors, *misspelt()]))
    return settings


def misspelt() -> list[str]:
    """One sentence for each variable that resembles a setting and is none."""
    return unknown_names(os.environ, map(str.upper, Settings.model_fields), map(str.upper, _secrets()))


def _secrets() -> list[str]:
    return [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]
