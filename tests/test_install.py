"""What is installed: every requirement has a pin that an ordinary pip finds, and every folder of code is packed."""

import configparser
import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
EXTRAS = SETUP["options.extras_require"]
REQUIREMENTS = {
    str(requirement)
    for text in (SETUP["options"]["install_requires"], *EXTRAS.values())
    for requirement in map(Requirement, text.split("\n")[1:])
    if requirement.name != "seqloom"
}
PINS = {
    canonicalize_name(pin.name): pin
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
    for pin in [Requirement(line)]
}


def version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", pin
    return specifier.version


@pytest.mark.parametrize("pin", PINS.values(), ids=str)
def test_a_pin_is_a_public_version(pin):
    """No index that everybody has holds a version with a local part: torch==2.13.0+cpu cannot be installed."""
    assert "+" not in version(pin), f"{pin}: pin {version(pin).split('+')[0]}"


@pytest.mark.parametrize("requirement", sorted(REQUIREMENTS))
def test_a_requirement_has_a_floor_and_a_pin(requirement):
    """Without a floor, pip takes a version of years ago where a newer one would not agree with the rest."""
    requirement = Requirement(requirement)
    assert any(specifier.operator == ">=" for specifier in requirement.specifier)
    assert requirement.specifier.contains(version(PINS[canonicalize_name(requirement.name)]), prereleases=True)


def test_every_folder_of_code_is_packed():
    rooms = {"src/seqloom": "seqloom"} | {name: f"seqloom.{name}" for name in ("modeling", "configs", "model_cards")}
    folders = {
        ".".join((name, *path.parent.relative_to(ROOT / room).parts))
        for room, name in rooms.items()
        for path in (ROOT / room).rglob("*.py")
    }
    assert folders == set(re.findall(r"\S+", SETUP["options"]["packages"]))


def test_workflow():
    """GitHub's CI is .ci/run, from the oldest Python that is allowed, and the fast tests on the floors of it."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    oldest = SETUP["options"]["python_requires"].removeprefix(">=")
    assert oldest in jobs["run"]["strategy"]["matrix"]["python"]
    assert ".ci/run" in [step.get("run") for step in jobs["run"]["steps"]]
    assert {"python-version": oldest} in [step.get("with") for step in jobs["floors"]["steps"]]
    assert any("lowest-direct" in step.get("run", "") for step in jobs["floors"]["steps"])
