"""The package from outside: its front door, its one version, and a wheel in an environment of its own."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest

import scail2
from scail2.pipeline.options import StreamArguments, StreamOptions

ROOT = Path(__file__).parents[1]


def test_type_checkers_see_every_name_that_is_exported():
    tree = ast.parse((ROOT / "src" / "scail2" / "__init__.py").read_text())
    typed = next(node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    seen = {alias.asname: node.module for node in typed.body for alias in node.names if alias.asname == alias.name}
    assert seen == scail2._EXPORTS
    for name in scail2.__all__:
        assert getattr(scail2, name) is not None


def test_type_checkers_see_every_argument_of_a_call():
    options = {each.name: each.type for each in fields(StreamOptions)}
    seen = {name: each.__forward_arg__ for name, each in StreamArguments.__annotations__.items()}
    assert seen.pop("mode") == f"Required[{options.pop('mode')}]"
    assert seen == options
    for method in (scail2.SCAIL2Pipeline.stream, scail2.SCAIL2Pipeline.__call__):
        assert {each.name for each in fields(StreamOptions)} <= set(inspect.signature(method).parameters)


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "scail2.__version__"}
    assert f"({scail2.__version__})" in (ROOT / "CHANGELOG.md").read_text()


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages - set(re.findall(r"\((\S+?\.md)\)", index)) == set()


def test_links_between_pages_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert broken == []


def test_the_package_runs_as_a_module():
    told = subprocess.run([sys.executable, "-m", "scail2", "--help"], capture_output=True, text=True, check=True)
    assert "animate" in told.stdout
    refused = subprocess.run(
        [sys.executable, "-m", "scail2", "status", "no-such-run"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")


@pytest.mark.slow
def test_a_wheel_holds_everything_and_starts_in_an_environment_of_its_own(tmp_path):
    # Dependencies are borrowed from this environment, so that nothing is downloaded; the package itself is not.
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout.decode()
    files = [name for name in tracked.split("\0") if name and (ROOT / name).is_file()]
    if not files:
        pytest.skip("not a git checkout: there is no list of the package's files")
    for name in files:
        if name.startswith("src/") or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(source)], check=True)
    wheel = tmp_path / f"scail2-{scail2.__version__}-py3-none-any.whl"
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name.removeprefix("src/") for name in files if name.startswith("src/scail2/")} <= held

    venv.create(tmp_path / "env", with_pip=False)
    folder = tmp_path / "env" / "bin"
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--quiet", str(wheel)], check=True)
    (site / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    told = subprocess.run(
        [folder / "scail2", "--help"], capture_output=True, text=True, check=True, cwd=tmp_path, env={}
    )
    assert "animate" in told.stdout
    where = [folder / "python", "-c", "import scail2; print(scail2.__file__, scail2.__version__)"]
    printed = subprocess.run(where, capture_output=True, text=True, check=True, cwd=tmp_path, env={}).stdout
    assert printed.split() == [str(site / "scail2" / "__init__.py"), scail2.__version__]
