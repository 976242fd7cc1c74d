"""The files a deployment starts from agree with each other, with the settings and with the command line."""

import configparser
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

import click
import pytest
import yaml

from service.__main__ import main
from service.settings import Settings

ROOT = Path(__file__).parents[2]
SETTINGS = {name.upper() for name in Settings.model_fields}
POSTGRES_IMAGE = {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"}
"""What the official image reads, by its documentation."""
CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
OF_PYTHON = {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}

Instruction = tuple[str, str]


def stages() -> list[list[Instruction]]:
    """The Dockerfile's instructions with their arguments, stage by stage."""
    text = "\n".join(line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    found: list[list[Instruction]] = []
    for line in filter(None, text.replace("\\\n", " ").splitlines()):
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append((name, arguments.strip()))
    return found


def last(name: str) -> str:
    """The arguments of the image's instruction of that name; the last one counts."""
    return [arguments for found, arguments in stages()[-1] if found == name][-1]


def exec_form(name: str) -> list[str]:
    """The command of an instruction. Raises JSONDecodeError where it is in shell form."""
    command: list[str] = json.loads(last(name).partition("CMD ")[2] or last(name))
    return command


def compose() -> dict[str, Any]:
    """The compose file as read, with its variables in place."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return content


@contextmanager
def server_that_answers(status: int) -> Iterator[int]:
    """The port of a server on loopback whose /healthz answers so, and everything else with 404."""

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


def test_both_stages_start_from_one_slim_base_of_a_python_we_support() -> None:
    bases = {stage[0][1].partition(" ")[0] for stage in stages()}
    assert len(stages()) == 2
    assert len(bases) == 1
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    version = re.fullmatch(r"python:(\d\.\d+)-slim-[a-z]+", bases.pop())
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in setup["metadata"]["classifiers"]


def test_the_image_runs_as_a_numeric_user_that_is_not_root() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))


def test_the_image_starts_serve_in_exec_form_so_that_sigterm_reaches_it() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert exec_form("ENTRYPOINT") == [setup["options.entry_points"]["console_scripts"].split()[0]]
    assert exec_form("CMD") == ["serve"]
    assert "serve" in main.commands
    assert last("STOPSIGNAL") == "SIGTERM"


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (404, False), (503, False)])
def test_the_health_check_believes_only_a_200_from_healthz(status: int, healthy: bool) -> None:
    program, *arguments = exec_form("HEALTHCHECK")
    assert program == exec_form("ENTRYPOINT")[0]
    with server_that_answers(status) as port:
        environment = {**os.environ, "PORT": str(port), "HOST": "0.0.0.0"}
        ended = subprocess.run([sys.executable, "-m", "service", *arguments], env=environment, check=False)
    assert (ended.returncode == 0) is healthy


def test_the_port_the_image_listens_at_is_the_one_it_exposes_and_compose_publishes() -> None:
    environment = dict(pair.split("=", 1) for pair in last("ENV").split())
    assert environment["HOST"] == "0.0.0.0"
    assert environment["PORT"] == last("EXPOSE")
    assert compose()["services"]["service"]["ports"][0].endswith(f":{environment['PORT']}")


def test_what_the_dockerfile_copies_is_all_that_reaches_the_build() -> None:
    copied = [source for name, arguments in stages()[0] if name == "COPY" for source in arguments.split()[:-1]]
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert sorted(copied) == sorted(line[1:] for line in lines if line.startswith("!"))
    assert all((ROOT / source).exists() for source in copied)


def test_the_dockerfile_has_no_heredoc_which_older_builders_do_not_know() -> None:
    assert not [line for stage in stages() for line in stage if "<<" in line[1]]


def test_the_compose_file_fits_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_variable_that_is_set_is_one_that_is_read() -> None:
    image = {pair.partition("=")[0] for pair in last("ENV").split()}
    assert image <= SETTINGS | OF_PYTHON
    services = compose()["services"]
    assert set(services["service"]["environment"]) <= SETTINGS | CREDENTIALS
    assert services["storage"]["environment"] == services["service"]["environment"]
    assert set(services["postgres"]["environment"]) <= POSTGRES_IMAGE


def test_the_password_has_no_default() -> None:
    uses = re.findall(r"\$\{POSTGRES_PASSWORD([^}]*)\}", (ROOT / "compose.yaml").read_text())
    assert uses
    assert all(use.startswith(":?") for use in uses)


def test_compose_waits_longer_than_the_service_lets_exports_go_on() -> None:
    service = compose()["services"]["service"]
    grace = float(service["environment"]["GRACE_SECONDS"])
    assert float(service["stop_grace_period"].removesuffix("s")) >= grace + 10


def test_the_image_gives_its_user_a_directory_for_files() -> None:
    directory = last("VOLUME")
    owner = last("USER").split(":")[0]
    made = [arguments for name, arguments in stages()[-1] if name == "RUN" and arguments.endswith(f" {directory}")]
    assert f"--owner={owner} " in made[0]


def test_links_are_signed_for_the_address_that_the_store_is_published_at() -> None:
    services = compose()["services"]
    published = services["s3"]["ports"][0].rpartition(":")[0]
    environment = services["service"]["environment"]
    assert environment["S3_PUBLIC_ENDPOINT_URL"].endswith(f"http://{published}}}")
    assert environment["S3_ENDPOINT_URL"] == f"http://s3:{services['s3']['ports'][0].rpartition(':')[2]}"
    assert published.startswith("127.0.0.1:")


def test_what_keeps_data_keeps_it_in_a_named_volume() -> None:
    content = compose()
    kept = [content["services"][name]["volumes"][0].split(":")[0] for name in ("postgres", "s3")]
    assert kept == list(content["volumes"])


def test_the_service_waits_for_its_database_and_its_bucket() -> None:
    services = compose()["services"]
    assert services["service"]["depends_on"] == {
        "postgres": {"condition": "service_healthy"},
        "storage": {"condition": "service_completed_successfully"},
    }
    assert "test" in services["postgres"]["healthcheck"]
    name, command = services["storage"]["command"]
    group = main.commands[name]
    assert isinstance(group, click.Group)
    assert command in group.commands
    assert {name: services[name]["restart"] for name in services} == {
        "service": "unless-stopped",
        "storage": "on-failure",
        "postgres": "unless-stopped",
        "s3": "unless-stopped",
    }
