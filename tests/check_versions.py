"""environment.yml, pyproject.toml and the locks must agree, and no lock may name a package index.

python tests/check_versions.py
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def locked(path: Path) -> dict[str, set[str]]:
    """Package -> versions that a lock pins (a universal lock may pin two for different Pythons)."""
    pins: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", path.read_text(), re.M):
        pins.setdefault(normalise(name), set()).add(version)
    return pins


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def problems(root: Path = ROOT) -> list[str]:
    """Everything that does not agree, one sentence each."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    base, dev = locked(root / "requirements.lock"), locked(root / "requirements-dev.lock")
    found = [f"requirements.lock does not pin {name}" for name in names(project["dependencies"]) if name not in base]
    extras = [name for text in project["optional-dependencies"]["dev"] for name in names([text])]
    found += [f"requirements-dev.lock does not pin {name}" for name in extras if name not in dev | {"medcore": set()}]
    found += [
        f"{name}: {sorted(base[name])} in requirements.lock, {sorted(dev.get(name, set()))} in requirements-dev.lock"
        for name in base
        if base[name] != dev.get(name)
    ]
    for lock in ("requirements.lock", "requirements-dev.lock"):
        text = (root / lock).read_text()
        found += (
            [f"{lock} names an index or a link"]
            if re.search(r"https?://|--(extra-)?index-url|--find-links", text)
            else []
        )
        found += [f"{lock} has a package without hashes"] if re.search(r"^[a-z].*==[^\\]*$", text, re.M) else []
    environment = (root / "environment.yml").read_text()
    found += [
        f"environment.yml lacks {line!r}"
        for line in ("-r requirements.lock", "-e .", f"python {project['requires-python']}")
        if line not in environment
    ]
    return found


def names(requirements: list[str]) -> list[str]:
    return [normalise(re.match(r"[A-Za-z0-9_.-]+", text).group()) for text in requirements]


if __name__ == "__main__":
    found = problems()
    print("\n".join(found) or "environment.yml, pyproject.toml and the locks agree")
    sys.exit(bool(found))
