"""Checks and tests. ``uv run nox`` runs them all; ``uv run nox -s tests`` one; ``uv run nox -l`` lists them."""

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = True
nox.options.stop_on_first_error = False

PACKAGES = ("bcos-core", "bcos-models", "bcos-explain", "bcos-cli")
BELOW = {  # what a package needs of ours, lowest first
    "bcos-core": (),
    "bcos-models": ("bcos-core",),
    "bcos-explain": ("bcos-core",),
    "bcos-cli": ("bcos-core", "bcos-models", "bcos-explain"),
}
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # set in some container images: each process would compile torch anew
FOLDERS = ("packages", "tests", "examples", "benchmarks", "tools", "docs", "noxfile.py")
PARALLEL = ("-n", "2", "--dist", "worksteal")  # two processes: the largest networks take 6 GB each
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
PYPROJECT = nox.project.load_toml("pyproject.toml")


def group(name: str) -> list[str]:
    """Requirements of a dependency group, without the groups it includes."""
    return [entry for entry in PYPROJECT["dependency-groups"][name] if isinstance(entry, str)]


def editable(*packages: str) -> list[str]:
    return [part for package in packages for part in ("-e", f"packages/{package}")]


EVERYTHING = (*editable(*BELOW["bcos-cli"]), "-e", "packages/bcos-cli[serve,video]")


@nox.session
def lint(session: nox.Session) -> None:
    """Style: ruff."""
    session.install(*group("lint"))
    session.run("ruff", "check", *FOLDERS)
    session.run("ruff", "format", "--check", *FOLDERS)


@nox.session
def types(session: nox.Session) -> None:
    """Types and the direction of dependence: mypy strict, import-linter, no circle of imports."""
    session.install(*EVERYTHING, *group("types"))
    session.run("mypy")
    session.run("lint-imports")
    session.run("python", "tests/architecture/import_circles.py")


ALONE = {  # enough to use every part of a package; what it does not declare is not there
    "bcos-core": (
        "test_imports.py",
        "test_doctests.py",
        "test_explanation.py",
        "test_norms_factory.py",
        "test_files.py",
    ),
    "bcos-models": ("test_registry.py", "test_trained_model.py", "convert/test_rules.py"),
    "bcos-explain": ("test_registry.py", "test_batch.py", "test_report.py", "test_metric_contract.py"),
    "bcos-cli": ("test_main.py", "test_config.py", "test_pack.py", "test_predictions.py"),
}


@nox.session
def tests(session: nox.Session) -> None:
    """The tests with all packages and the reference implementation; of families, the smallest members."""
    _install_all(session)
    session.run("pytest", *PARALLEL, "-m", "not slow", "--durations=20", *session.posargs, env=ONE_THREAD)


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def isolated(session: nox.Session, package: str) -> None:
    """One package with nothing but what it declares: every module is imported, and the main roads are used."""
    session.install(*editable(*BELOW[package], package), *group("test-base"))
    session.run("python", "tests/architecture/import_all.py", package.replace("-", "_"))
    folder = Path("tests", package.removeprefix("bcos-"))
    files = [str(folder / name) for name in ALONE[package]]
    session.run("pytest", *files, "-m", "not slow", "-p", "no:xdist", *session.posargs, env=ONE_THREAD)


@nox.session(default=False)
def full(session: nox.Session) -> None:
    """All tests: every member of every family, long runs, processes that are killed. Half an hour."""
    _install_all(session)
    session.run("pytest", *PARALLEL, *session.posargs, env=ONE_THREAD)


@nox.session(default=False)
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def full_isolated(session: nox.Session, package: str) -> None:
    """All tests of one package, with nothing but what it declares."""
    session.install(*editable(*BELOW[package], package), *group("test-base"))
    session.run("pytest", f"tests/{package.removeprefix('bcos-')}", *PARALLEL, *session.posargs, env=ONE_THREAD)


def _install_all(session: nox.Session) -> None:
    session.install(*EVERYTHING, *group("test-base"), *group("parity"), *group("export"))
    session.install(*group("examples"), *group("real"), *group("quantus"), *group("browser"), *group("fuzz"))


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Every family of timm, explained and converted; writes docs/coverage.md. Half an hour."""
    session.install(*editable("bcos-core", "bcos-models"), *group("test-base"))
    results = Path(session.create_tmp()).resolve() / "coverage"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir()
    everything = {"BCOS_COVERAGE": "all", "BCOS_COVERAGE_RESULTS": str(results)}
    session.run("pytest", "tests/coverage", *PARALLEL, *session.posargs, env=ONE_THREAD | everything)
    if not session.posargs:
        session.run("python", "tests/coverage/write_table.py", str(results), "docs/coverage.md")


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Feed damaged and hostile files to all that reads files: an hour, or the minutes that are given."""
    session.install(*EVERYTHING, *group("test-base"), *group("fuzz"))
    minutes, *arguments = session.posargs or ["60"]
    session.run("pytest", "tests/fuzz", "--timeout=0", *arguments, env=ONE_THREAD | {"BCOS_FUZZ_MINUTES": minutes})


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Run the examples of the documents, which the tests do too."""
    session.install(*EVERYTHING, *group("test-base"), *group("examples"), *group("export"))
    session.run("pytest", "tests/docs", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure speed and memory beside plain networks and the reference; ``-- --quick`` in minutes, not for figures."""
    session.install(*EVERYTHING, *group("parity"))
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build all wheels, install them into an empty environment, use them there."""
    dist = Path("dist").resolve()
    shutil.rmtree(dist, ignore_errors=True)
    for package in PACKAGES:
        session.run("uv", "build", "--quiet", f"packages/{package}", "--out-dir", str(dist), external=True)
    session.install(*map(str, dist.glob("bcos_core-*.whl")))
    script = Path("tests/architecture/bcos_core_alone.py").resolve()
    session.chdir(session.create_tmp())  # nothing of the repository in reach
    session.run("python", str(script))
    session.install(*map(str, dist.glob("*.whl")))
    session.run("bcos", "--version")
    session.run("bcos", "models")
    session.run("bcos", "demo", "-o", "train.epochs=1", "-o", "evaluation.gridpg_grids=4")


@nox.session(default=False, name="release-check")
def release_check(session: nox.Session) -> None:
    """Versions, changelogs, bounds, tags, metadata; wheels, and that source distributions build the same ones."""
    session.install("packaging", "twine>=6", "check-wheel-contents>=0.6")
    folder = Path(session.create_tmp()).resolve()
    dist, again = folder / "dist", folder / "again"
    for path in (dist, again):
        shutil.rmtree(path, ignore_errors=True)
    for package in PACKAGES:
        session.run("uv", "build", "--quiet", f"packages/{package}", "--out-dir", str(dist), external=True)
    built = sorted(dist.glob("bcos*"))
    for source in dist.glob("*.tar.gz"):
        session.run("uv", "build", "--quiet", "--wheel", str(source), "--out-dir", str(again), external=True)
    session.run("twine", "check", "--strict", *map(str, built))
    session.run("check-wheel-contents", *map(str, dist.glob("*.whl")))
    session.run("python", "tools/release.py", "check", str(dist), str(again))


@nox.session(default=False)
def lowest(session: nox.Session) -> None:
    """The tests of each package's main roads with the lowest versions that its bounds allow, on Python 3.11."""
    session.install("--resolution", "lowest-direct", *EVERYTHING, *group("test-base"))
    files = [str(Path("tests", p.removeprefix("bcos-"), name)) for p in PACKAGES for name in ALONE[p]]
    # What old versions of libraries say of each other is theirs.
    session.run("pytest", *files, *PARALLEL, "-m", "not slow", "-W", "default", *session.posargs, env=ONE_THREAD)


@nox.session(default=False)
def site(session: nox.Session) -> None:
    """Build the site into site/, warnings as errors; ``-- online`` links other libraries, and checks links."""
    session.install(*EVERYTHING, *group("site"))
    shutil.rmtree("site", ignore_errors=True)
    online = "online" in session.posargs
    build = ("sphinx-build", "--fail-on-warning", "--keep-going", "--jobs", "2", "-c", "docs", ".")
    session.run(*build, "site", env={"BCOS_SITE_ONLINE": "1" if online else ""})
    if online:
        session.run(*build, "-b", "linkcheck", "site/.links")
