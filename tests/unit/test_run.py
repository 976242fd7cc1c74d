"""The script `run`, called as people call it. A stub takes the place of Python, so that nothing is downloaded."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = f"""#!/bin/sh
# Answers questions like a real interpreter, and makes an environment of programs that print how they were called.
case "$1 $2" in
"-m venv")
    mkdir -p "$3/bin"
    for name in python pip uv contact-exports; do
        cp "$(dirname "$0")/program" "$3/bin/$name"
    done
    ;;
*) exec {sys.executable} "$@" ;;
esac
"""
PROGRAM = """#!/bin/sh
echo "$(basename "$0") in $PWD: $*"
env | grep -E '^(CDPATH|PIP_.*|PYTHON[A-Z]+)=' || true
"""


PINS = "tests/foreign/consumers.txt"


def executable(path: Path, text: str) -> Path:
    """Write a script."""
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with all that `run` reads, and the stub next to it."""
    directory = tmp_path / "my checkout"
    (directory / "service").mkdir(parents=True)
    (directory / "service" / "__main__.py").touch()
    (directory / "tests" / "foreign").mkdir(parents=True)
    for name in ("run", "setup.cfg", "pyproject.toml", PINS):
        shutil.copy(ROOT / name, directory / name)
    shutil.copytree(ROOT / "requirements", directory / "requirements")
    executable(tmp_path / "python", PYTHON)
    executable(tmp_path / "program", PROGRAM)
    return directory


def call(script: str | Path, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call the script from that directory. PYTHON is the stub in the parent of the checkout unless given."""
    given = {"PATH": os.environ["PATH"], **environment}
    command = [str(script), *arguments]
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, check=False)


def test_the_first_call_installs_and_the_second_does_not(checkout: Path) -> None:
    first, second = (call("./run", "serve", cwd=checkout, PYTHON="../python") for _ in range(2))
    calls = [line for line in first.stdout.splitlines() if line.startswith(f"pip in {checkout}: install ")]
    lists = "-r requirements/build.txt -r requirements/service.txt -r requirements/embedded.txt"
    assert calls[0].endswith(f" --require-hashes {lists}")
    assert calls[1].endswith(" --no-deps --no-build-isolation -e .")
    assert len(calls) == 2
    assert first.stdout.endswith(f"contact-exports in {checkout}: serve\nPIP_USER=0\n")
    assert second.stdout == f"contact-exports in {checkout}: serve\nPIP_USER=0\n"
    assert second.stderr == ""


@pytest.mark.parametrize("name", ["setup.cfg", "pyproject.toml", "requirements/service.txt"])
def test_changed_requirements_make_a_new_environment(checkout: Path, name: str) -> None:
    call("./run", "serve", cwd=checkout, PYTHON="../python")
    (checkout / ".venv" / "old").touch()
    with (checkout / name).open("a") as file:
        file.write("# changed\n")
    assert "pip in" in call("./run", "serve", cwd=checkout, PYTHON="../python").stdout
    assert not (checkout / ".venv" / "old").exists()


def test_foreign_consumers_get_an_environment_of_their_own_and_a_new_one_when_their_versions_change(checkout: Path) -> None:
    consumers = checkout / ".venv" / "consumers"
    first, second = (call("./run", "foreign", "-x", cwd=checkout, PYTHON="../python") for _ in range(2))
    assert (
        f"uv in {checkout}: pip install --quiet --require-hashes --python {consumers}/bin/python -r {PINS}\n" in first.stdout
    )
    assert second.stdout == f"python in {checkout}: -m pytest -m foreign -n 2 tests/foreign -x\nPIP_USER=0\n"
    (consumers / "old").touch()
    with (checkout / PINS).open("a") as file:
        file.write("# changed\n")
    assert "uv in" in call("./run", "foreign", cwd=checkout, PYTHON="../python").stdout
    assert not (consumers / "old").exists()


def test_a_symbolic_link_and_cdpath_lead_to_the_checkout(checkout: Path, tmp_path: Path) -> None:
    decoy = tmp_path / "decoy"
    (decoy / "bin" / ".venv").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "relative").symlink_to("../my checkout/run")
    (tmp_path / "bin" / "absolute").symlink_to(tmp_path / "bin" / "relative")
    for name in ("relative", "absolute"):
        ended = call(f"bin/{name}", "serve", cwd=tmp_path, CDPATH=str(decoy), PYTHON="./python")
        assert f"contact-exports in {checkout}: serve\n" in ended.stdout, ended.stderr
    assert (decoy / "bin" / ".venv").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_REQUIRE_VIRTUALENV", "PIP_DRY_RUN"),
        *("PIP_CONSTRAINT", "PIP_REQUIREMENT", "PIP_NO_DEPS", "PIP_NO_BINARY", "PIP_PRE", "PIP_REQUIRE_HASHES"),
        *("PYTHONHOME", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONINSPECT", "PYTHONUSERBASE", "PYTHONPLATLIBDIR", "CDPATH"),
    ],
)
def test_settings_of_the_caller_reach_neither_python_nor_pip(checkout: Path, name: str) -> None:
    ended = call("./run", "serve", cwd=checkout, PYTHON="../python", **{name: "1"})
    assert ended.returncode == 0, ended.stderr
    assert {line for line in ended.stdout.splitlines() if "=" in line and " " not in line} == {"PIP_USER=0"}


def test_the_sources_of_packages_are_the_callers(checkout: Path) -> None:
    names = [
        *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST", "PIP_PROXY"),
        *("PIP_CERT", "PIP_CLIENT_CERT", "PIP_DEFAULT_TIMEOUT", "PIP_TIMEOUT", "PIP_RETRIES", "PIP_CACHE_DIR"),
        *("PIP_NO_CACHE_DIR", "PIP_CONFIG_FILE", "PIP_KEYRING_PROVIDER"),
    ]
    ended = call("./run", "serve", cwd=checkout, PYTHON="../python", **dict.fromkeys(names, "1"))
    assert set(ended.stdout.splitlines()) >= {f"{name}=1" for name in names}


def test_arguments_are_passed_on(checkout: Path) -> None:
    ended = call("./run", "test", "-k", "two words", cwd=checkout, PYTHON="../python")
    assert f"python in {checkout}: -m pytest -k two words\n" in ended.stdout


@pytest.mark.parametrize("arguments", [(), ("help",)])
def test_help_lists_the_words_and_then_the_commands(checkout: Path, arguments: tuple[str, ...]) -> None:
    ended = call("./run", *arguments, cwd=checkout, PYTHON="../python")
    for word in ("demo", "serve", "test", "foreign", "check", "bench", "chaos", "mutants", "lock"):
        assert f"\n  ./run {word} " in ended.stdout
    assert f"contact-exports in {checkout}: --help" in ended.stdout
    assert "set -eu" not in ended.stdout


def test_outside_a_checkout_it_deletes_nothing(checkout: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / ".venv").mkdir(parents=True)
    shutil.copy(checkout / "run", elsewhere)
    ended = call("./run", "serve", cwd=elsewhere, PYTHON="../python")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"run: {elsewhere} is not a checkout of contact-exports.\n"
    assert (elsewhere / ".venv").exists()


def test_without_a_new_enough_python_it_says_so(checkout: Path) -> None:
    old = executable(checkout.parent / "old", "#!/bin/sh\nexit 1\n")
    ended = call("./run", "serve", cwd=checkout, PYTHON=str(old))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"run: Python 3.11 or newer not found (tried: {old}). ")
    assert not (checkout / ".venv").exists()


def test_an_interpreter_without_ssl_is_not_chosen(checkout: Path, tmp_path: Path) -> None:
    """Such an interpreter can make an environment, but its pip cannot download anything."""
    broken = "import sys; sys.modules['ssl'] = None"
    incomplete = executable(
        tmp_path / "python3",
        f'#!/bin/sh\n[ "$1" = -c ] || exec {sys.executable} "$@"\ncode=$2; shift 2\n'
        f'exec {sys.executable} -c "{broken}\n$code" "$@"\n',
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    chosen = tmp_path / "python3.13"
    shutil.copy(tmp_path / "python", chosen)
    assert "contact-exports in" in call("./run", "serve", cwd=checkout, PATH=path).stdout
    refused = call("./run", "serve", cwd=checkout, PYTHON=str(incomplete))
    assert refused.returncode == 1
    assert "ssl" in refused.stderr
    assert refused.stderr.count("\n") == 1
