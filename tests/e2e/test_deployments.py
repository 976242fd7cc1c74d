"""The program runs with what the systemd unit and the Kubernetes manifests give it, and its probes respond."""

import configparser
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import yaml

from service.settings import Settings
from tests.support import docs
from tests.support.calls import create
from tests.support.contacts import tenant
from tests.support.jobs import connect
from tests.support.program import free_port, running
from tests.support.s3 import S3Access
from tests.support.shell import BIN, run, shell
from tests.support.waiting import until_ended

RUNNING = "docs/running.md"
UNIT = docs.ROOT / "deploy" / "systemd" / "contact-exports.service"
MANIFESTS = docs.ROOT / "deploy" / "kubernetes" / "contact-exports.yaml"
_SETTINGS = {name.upper() for name in Settings.model_fields}
_OTHERS = {"PYTHONDONTWRITEBYTECODE", "AWS_SHARED_CREDENTIALS_FILE"}
_HAND_BACK_SECONDS = 10


def section(path: Path, name: str) -> dict[str, list[str]]:
    """The lines of one section of a unit file; a name may occur more than once."""
    values: dict[str, list[str]] = {}
    found = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            found = line.strip("[]")
        elif found == name and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            values.setdefault(key, []).append(value)
    return values


def assert_known(environment: dict[str, str]) -> None:
    """Every variable is a setting, or names the file of one. The program would ignore a misspelled one."""
    assert {name.removesuffix("_FILE") for name in environment} <= _SETTINGS | {
        name.removesuffix("_FILE") for name in _OTHERS
    }


def settings_example() -> dict[str, str]:
    """The settings file of the systemd unit."""
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # the documented way to keep capitals
    parser.read_string("[settings]\n" + (UNIT.parent / "settings.example").read_text())
    return dict(parser["settings"])


async def test_the_program_runs_with_the_environment_of_the_systemd_unit(database_url: str, tmp_path: Path) -> None:
    service = section(UNIT, "Service")
    (tmp_path / "database_url").write_text(f"{database_url}\n")
    (credential,) = service["LoadCredential"]
    assert credential == "database_url:/etc/contact-exports/database_url"
    given = dict(pair.split("=", 1) for pair in shlex.split(service["Environment"][0]))
    environment = {
        name: value.replace("%d", str(tmp_path)).replace("/var/lib/contact-exports", str(tmp_path))
        for name, value in (given | settings_example()).items()
    }
    assert_known(environment)
    (directory,) = service["StateDirectory"]
    assert service["WorkingDirectory"] == [f"/var/lib/{directory}"]
    assert service["ExecStart"][0].rpartition("/")[2] == "contact-exports serve"
    await shell("contact-exports storage init", environment)
    async with running(environment) as program, connect(database_url) as sql:
        export_id = await create(program, await tenant(database_url))
        assert (await until_ended(sql, export_id))["status"] == "completed"
    grace = float(environment["GRACE_SECONDS"])
    assert float(service["TimeoutStopSec"][0]) >= grace + _HAND_BACK_SECONDS


@pytest.mark.debian
async def test_systemd_accepts_the_unit_and_the_drop_in_and_finds_them_as_closed_as_the_page_says(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/contact-exports/bin/contact-exports", "/bin/true"))
    drop_in = tmp_path / f"{UNIT.name}.d" / "s3.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(docs.block("ini", RUNNING, "LoadCredential"))
    verified = await run("systemd-analyze", "verify", str(unit))
    assert verified == (0, "", "")
    rated = await run("systemd-analyze", "security", "--offline=true", "--no-pager", str(unit))
    (exposure,) = re.findall(r"Overall exposure level for contact-exports.service: ([\d.]+)", rated.output)
    (documented,) = re.findall(r"`systemd-analyze security` rates it (\d\.\d)", docs.text_of(RUNNING))
    assert exposure == documented


@pytest.mark.debian
async def test_systemd_makes_the_account_of_the_unit(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    made = await run("systemd-sysusers", f"--root={tmp_path}", str(UNIT.with_suffix(".sysusers")))
    assert made.code == 0, made.errors
    names = [line.partition(":")[0] for line in (tmp_path / "etc" / "passwd").read_text().splitlines()]
    assert names == section(UNIT, "Service")["User"]


async def test_the_commands_of_the_page_install_the_unit_and_create_the_directory_of_the_files(tmp_path: Path) -> None:
    def here(text: str) -> str:
        """The same with all paths below the directory of the test, and without a change of the owner."""
        text = text.replace("/opt/contact-exports/bin", str(BIN)).replace("chown --recursive contact-exports", "ls")
        return re.sub(r"(?<=[ =/])/(etc|usr|var)/", rf"{tmp_path}/\1/", text)

    await shell(f"cd {docs.ROOT}\n" + here(docs.block("sh", RUNNING, "install -D")), {})
    etc = tmp_path / "etc"
    assert (etc / "systemd" / "system" / UNIT.name).read_text() == UNIT.read_text()
    service = section(UNIT, "Service")
    assert service["EnvironmentFile"] == ["/etc/contact-exports/settings"]
    settings, database_url = etc / "contact-exports" / "settings", etc / "contact-exports" / "database_url"
    assert database_url.stat().st_mode & 0o777 == 0o600
    database_url.write_text("postgresql://localhost/contact_exports")
    settings.write_text(here(settings.read_text()))
    await shell(here(docs.block("sh", RUNNING, "storage init")), {})
    assert (tmp_path / "var" / "lib" / "contact-exports" / "files" / "objects").is_dir()


def manifests() -> dict[str, Any]:
    """The objects by kind, with the Secret of the page."""
    documents = [*yaml.safe_load_all(MANIFESTS.read_text()), yaml.safe_load(docs.block("yaml", RUNNING, "kind: Secret"))]
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("version", ["1.25.0", "1.34.0"])
async def test_the_manifests_and_the_secret_fit_the_schemas_of_kubernetes(version: str, tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text(docs.block("yaml", RUNNING, "kind: Secret"))
    validate = ("kubernetes-validate", "--strict", "--kubernetes-version", version)
    ended = await run(*validate, str(MANIFESTS), str(tmp_path / "secret.yaml"))
    assert ended.code == 0, ended.output + ended.errors
    assert ended.output.count(" passed ") == len(manifests())


def test_the_objects_of_the_manifests_belong_together() -> None:
    objects = manifests()
    pod = objects["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    (spread,) = pod["spec"]["topologySpreadConstraints"]
    assert objects["Service"]["spec"]["selector"].items() <= labels
    for selector in (objects["Deployment"]["spec"], objects["PodDisruptionBudget"]["spec"], spread):
        named = selector.get("selector") or selector["labelSelector"]
        assert named["matchLabels"].items() <= labels
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": Settings.model_fields["port"].default, "admin": Settings.model_fields["admin_port"].default}
    assert [port["targetPort"] for port in objects["Service"]["spec"]["ports"]] == ["http"]
    version = re.findall(r"^version = (.+)$", docs.text_of("setup.cfg"), re.MULTILINE)
    assert container["image"].rpartition(":")[2] == version[0]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert volumes["secrets"]["secret"]["secretName"] == objects["Secret"]["metadata"]["name"]


async def test_the_program_runs_with_the_environment_of_the_manifests(
    database_url: str, s3: S3Access, bucket: str, tmp_path: Path
) -> None:
    objects = manifests()
    spec = objects["Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    given = {each["name"]: each["value"] for each in container["env"]}
    assert_known(given)
    (secrets,) = (mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "secrets")
    values = {
        "database_url": database_url,
        "admin_token": "0123456789abcdef" * 4,
        "aws_credentials": f"[default]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n",
    }
    assert set(objects["Secret"]["stringData"]) == set(values)
    for name, value in values.items():
        (tmp_path / name).write_text(value)
    environment = {name: value.replace(secrets, str(tmp_path)) for name, value in given.items()} | {
        "STORAGE_URL": f"s3://{bucket}/prefix",
        "S3_ENDPOINT_URL": s3.endpoint_url,
        "S3_REGION": s3.region,
        "S3_ADDRESSING_STYLE": "path",
        "ADMIN_PORT": free_port(),
    }
    async with running(environment) as program, connect(database_url) as sql, aiohttp.ClientSession() as session:
        for probe in (container["livenessProbe"]["httpGet"], container["readinessProbe"]["httpGet"]):
            assert probe["port"] == "http"
            async with session.get(f"{program.address}{probe['path']}") as response:
                assert response.status == 200
        export_id = await create(program, await tenant(database_url))
        assert (await until_ended(sql, export_id))["status"] == "completed"
        assert urlsplit(program.admin).hostname == "0.0.0.0"
    stop = float(container["lifecycle"]["preStop"]["exec"]["command"][1]) + float(given["GRACE_SECONDS"])
    assert spec["terminationGracePeriodSeconds"] >= stop + _HAND_BACK_SECONDS
