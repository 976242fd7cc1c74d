"""Names of variables that resemble a setting and are none, such as DATABASE_ULR. No value is kept or shown."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

_ALIASES = ("AWS_REGION", "AWS_DEFAULT_REGION", "POSTGRES_BIN")
_OTHERS = re.compile(r"AWS_.*|.*_SERVICE_HOST|.*_SERVICE_PORT(_.*)?|.*_PORT(_\d+_(TCP|UDP)(_.*)?)?", re.DOTALL)
"""Variables of the S3 client, and those that Kubernetes and container links make from the name of a service."""
_OURS = ("S3_", "DATABASE_")
_SIMILARITY = 0.86
"""A letter that is missing, or two in the wrong order, in a name of eight letters."""
_SIMILARITY_OF_OURS = 0.82


def unknown_names(variables: Iterable[str], settings: Iterable[str], secrets: Iterable[str]) -> list[str]:
    """One sentence for each variable that resembles a setting, or begins with S3_ or DATABASE_, and is none.

    `secrets` are the settings that can also be read from the file NAME_FILE.
    """
    plain = set(settings)
    known = sorted({*plain, *_ALIASES, *(f"{name}_FILE" for name in secrets)})
    sentences = []
    for name in sorted(set(variables)):
        upper = name.upper()
        if upper in known or _OTHERS.fullmatch(upper):
            continue
        similarity = _SIMILARITY_OF_OURS if upper.startswith(_OURS) else _SIMILARITY
        if upper.removesuffix("_FILE") in plain:
            sentences.append(f"{_shown(name)} is not a setting: only secrets can be read from a file.")
        elif close := get_close_matches(upper, known, n=1, cutoff=similarity):
            sentences.append(f"{_shown(name)} is not a setting; did you mean {close[0]}?")
        elif upper.startswith(_OURS):
            sentences.append(f"{_shown(name)} is not a setting of this service.")
    return sentences


def undecodable_names(environment: Mapping[bytes, bytes], settings: Iterable[str]) -> list[str]:
    """The settings whose value is not valid UTF-8."""
    broken = []
    for name in settings:
        try:
            environment.get(name.encode(), b"").decode()
        except UnicodeDecodeError:
            broken.append(name)
    return broken


def _shown(name: str) -> str:
    return name if name.isprintable() else ascii(name)
