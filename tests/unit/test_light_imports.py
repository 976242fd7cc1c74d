"""Commands of consumers and of container engines start without the server and its drivers."""

import json
import subprocess
import sys

import pytest

_LIST = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules))))
sys.argv = ["contact-exports", *{arguments!r}]
from service.__main__ import main
main()
"""
_SERVER = ("asyncpg", "pydantic", "aiobotocore", "service.web", "service.process", "service.postgres", "service.settings")


def modules_of(*arguments: str) -> set[str]:
    """Run a command and return the modules that its process has imported."""
    code = _LIST.format(arguments=arguments)
    ended = subprocess.run([sys.executable, "-c", code], env={"PORT": "1"}, capture_output=True, text=True, check=False)
    return set(json.loads(ended.stdout.splitlines()[-1]))


@pytest.mark.parametrize("command", [("health",), ("export", "--help")], ids=" ".join)
def test_the_command_starts_without_the_server_its_drivers_and_the_http_client(command: tuple[str, ...]) -> None:
    imported = modules_of(*command)
    assert f"service.commands.{command[0]}" in imported
    assert imported.isdisjoint([*_SERVER, "aiohttp", "service.client.api"])


def test_an_export_runs_without_the_server_and_its_drivers() -> None:
    code = "import service.commands.export.run, sys; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ended.stdout.split()).isdisjoint(_SERVER)
