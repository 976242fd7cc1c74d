"""The import contract in setup.cfg also covers new modules: the tests add modules to a copy of the tree."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")
FORBIDDEN = {
    "asyncpg in exports": ("service/exports/new_1.py", "import asyncpg"),
    "asyncpg in the stream": ("service/exports/stream/new_2.py", "from asyncpg.pool import Pool"),
    "asyncpg in commands": ("service/commands/new_3.py", "import asyncpg"),
    "asyncpg in a function": ("service/web/new_4.py", "def connect():\n    import asyncpg"),
    "asyncpg in a new package": ("service/embedded/new_5/__init__.py", "import asyncpg"),
    "asyncpg in a new module at the top": ("service/new_6.py", "import asyncpg"),
    "botocore in exports": ("service/exports/new_7.py", "import botocore.exceptions"),
    "botocore in the directory store": ("service/storage/directory/new_8.py", "import botocore"),
    "aiobotocore outside the S3 store": ("service/storage/new_9.py", "import aiobotocore.session"),
    "settings in web": ("service/web/new_10.py", "from service.settings import Settings"),
    "settings in exports": ("service/exports/new_11.py", "from service import settings"),
    "settings in a store": ("service/storage/s3/new_12.py", "import service.settings"),
    "web in exports": ("service/exports/new_13.py", "from service.web import problems"),
    "web in postgres": ("service/postgres/new_14.py", "import service.web.app"),
    "postgres in the stream": ("service/exports/stream/new_15.py", "from service.postgres.pool import Database"),
    "the web in the client": ("service/client/new_17.py", "from service.web.preferences import PREFER"),
    "asyncpg in the command of consumers": (
        "service/commands/export/new_18.py",
        "from service.postgres.pool import Database",
    ),
    "service in sql": ("sql/new_16.py", "from service.model import Claim"),
}
WITHOUT_LAYER = ("new_19.py", "new_20/__init__.py")


def copy_of_the_tree(directory: Path) -> Path:
    """Copy everything that the contract reads."""
    for name in ("service", "sql"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", directory)
    return directory


def lint_imports(directory: Path) -> tuple[int, str]:
    """Check the tree in that directory. Returns the exit code and the report."""
    ended = subprocess.run([LINT_IMPORTS, "--no-cache"], cwd=directory, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout


def dotted(path: str) -> str:
    """The name of the module at that path."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What lint-imports reports for a copy with a new module for each forbidden import."""
    directory = copy_of_the_tree(tmp_path_factory.mktemp("forbidden"))
    for path, content in FORBIDDEN.values():
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_text(f"{content}\n")
    code, report = lint_imports(directory)
    assert code == 1
    return report


def test_the_tree_keeps_the_contract(tmp_path: Path) -> None:
    code, report = lint_imports(copy_of_the_tree(tmp_path))
    assert code == 0, report


@pytest.mark.parametrize(("path", "content"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_new_module_cannot_import(report: str, path: str, content: str) -> None:
    line = content.count("\n") + 1
    imports = [line for line in report.splitlines() if f"{dotted(path)} -> " in line]
    assert imports, f"{path} is not in the report:\n{report}"
    assert all(f"(l.{line})" in found for found in imports)


@pytest.mark.parametrize("name", WITHOUT_LAYER)
def test_a_new_module_must_have_a_layer(tmp_path: Path, name: str) -> None:
    module = copy_of_the_tree(tmp_path) / "service" / name
    module.parent.mkdir(exist_ok=True)
    module.write_text("import json\n")
    code, report = lint_imports(tmp_path)
    assert code == 1
    assert f"\n- service.{dotted(name)}\n" in report
