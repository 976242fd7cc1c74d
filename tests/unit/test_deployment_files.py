"""The files a deployment starts from name settings and commands that exist, and the health check does what it says."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from service.__main__ import main
from service.settings import Settings

ROOT = Path(__file__).parents[2]
SETTINGS = {name.upper() for name in Settings.model_fields}
POSTGRES_IMAGE = {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"}
"""Variables of the official image, by its documentation."""
CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
OF_PYTHON = {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}


def last(name: str) -> str:
    """The arguments of the last instruction of that name in the Dockerfile: the one that counts."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    found = [line.partition(" ")[2].strip() for line in text.splitlines() if line.startswith(f"{name} ")]
    return found[-1]


def command_of(name: str) -> list[str]:
    """The command of an instruction. Raises JSONDecodeError if it is in shell form, in which signals do not arrive."""
    command: list[str] = json.loads(last(name).partition("CMD ")[2] or last(name))
    return command


def compose() -> dict[str, Any]:
    """The compose file; variables are not substituted."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return content


@contextmanager
def server_that_answers(status: int) -> Iterator[int]:
    """The port of a server on loopback that returns this status for /healthz, and 404 for everything else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (404, False), (503, False)])
def test_the_health_check_accepts_only_a_200_from_healthz(status: int, healthy: bool) -> None:
    program, *arguments = command_of("HEALTHCHECK")
    assert program == command_of("ENTRYPOINT")[0]
    with server_that_answers(status) as port:
        environment = {**os.environ, "PORT": str(port), "HOST": "0.0.0.0"}
        ended = subprocess.run([sys.executable, "-m", "service", *arguments], env=environment, check=False)
    assert (ended.returncode == 0) is healthy


def test_the_commands_of_the_image_and_of_compose_exist() -> None:
    for command in (command_of("CMD"), compose()["services"]["storage"]["command"]):
        result = CliRunner().invoke(main, [*command, "--help"])
        assert result.exit_code == 0, result.output


def test_settings_accept_the_environment_of_the_image_and_of_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelled or invalid setting fails here and not on the machine that starts it."""
    image = dict(pair.split("=", 1) for pair in last("ENV").split())
    variables = compose()["services"]["service"]["environment"]
    assert set(image) <= SETTINGS | OF_PYTHON
    assert set(variables) <= SETTINGS | CREDENTIALS
    assert set(compose()["services"]["postgres"]["environment"]) <= POSTGRES_IMAGE
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**image, **variables}.items():
        if name not in OF_PYTHON:
            # The default of a variable is after ":-"; one that is required has none.
            monkeypatch.setenv(name, re.sub(r"\$\{\w+:(?:-([^}]*)|\?[^}]*)\}", lambda match: match[1] or "secret", value))
    settings = Settings()
    assert settings.host == "0.0.0.0"
    assert float(compose()["services"]["service"]["stop_grace_period"].removesuffix("s")) >= settings.grace_seconds + 10


def test_the_build_context_has_every_file_that_the_dockerfile_copies() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = [source for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for source in line.split()[:-1]]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied
    assert [source for source in copied if source not in kept or not (ROOT / source).exists()] == []


def test_base_images_have_a_version_and_take_a_digest() -> None:
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert set(bases) == {"python:3.13-slim-trixie${BASE_DIGEST:+@$BASE_DIGEST}"}
    images = [service["image"] for service in compose()["services"].values() if "build" not in service]
    assert images
    assert [image for image in images if ":" not in image or image.endswith(":latest")] == []


def test_the_image_installs_hashed_requirements_and_then_the_package_alone() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip --python \S+ (?:install|wheel) ([^&\n]*)", text)
    assert len(installs) == 4
    assert all("--require-hashes" in each or "--no-deps" in each for each in installs)
    assert not any("-r " in each and "--require-hashes" not in each for each in installs)


def test_the_compose_file_fits_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_password_has_no_default() -> None:
    uses = re.findall(r"\$\{POSTGRES_PASSWORD([^}]*)\}", (ROOT / "compose.yaml").read_text())
    assert uses
    assert all(use.startswith(":?") for use in uses)


def test_compose_mounts_files_that_exist_where_the_programs_look_for_them() -> None:
    mounts = [
        volume.split(":")[:2]
        for service in compose()["services"].values()
        for volume in service.get("volumes", ())
        if volume.startswith("./")
    ]
    assert mounts
    assert [source for source, _ in mounts if not (ROOT / source).is_file()] == []
    places = {Path(source).name: Path(target) for source, target in mounts}
    monitoring = ROOT / "deploy" / "monitoring"
    (provider,) = yaml.safe_load((monitoring / "grafana" / "dashboards.yaml").read_text())["providers"]
    assert places["dashboard.json"].parent == Path(provider["options"]["path"])
    (rules,) = yaml.safe_load((monitoring / "prometheus.yaml").read_text())["rule_files"]
    assert places["alerts.yaml"] == places["prometheus.yaml"].parent / rules
