"""The command doctor.py: what it finds, the advisories it knows, and the floors that contain their fixes."""

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from diffsweep.runs.advisories import ADVISORIES, advisories_of
from diffsweep.runs.doctor import FAULT, OK, WARNING, findings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def test_the_floors_of_requirements_contain_the_known_fixes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for each in project["optional-dependencies"].values() for line in each)]
    floors: dict[str, Version] = {}
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.12"}):
            least = [Version(each.version) for each in requirement.specifier if each.operator in (">=", "==")]
            floors[requirement.name] = max([*least, floors.get(requirement.name, Version("0"))])
    open_ = [
        each.identifier for each in ADVISORIES if each.fixed and floors[each.package] in SpecifierSet(each.affected)
    ]
    assert open_ == ["CVE-2026-4538"]  # of .pt2 files, which diffsweep never reads


def test_the_pinned_versions_have_no_advisory_that_has_a_fix():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line[0].isalpha():
            requirement = Requirement(line.partition(" \\")[0])
            if requirement.marker is None or requirement.marker.evaluate({"python_full_version": "3.12.0"}):
                pinned[requirement.name] = next(iter(requirement.specifier)).version
    assert len(pinned) > 100
    assert [each.identifier for each in advisories_of(pinned) if each.fixed] == []


def test_an_old_version_is_named_with_the_newest_fix_that_it_lacks():
    found = advisories_of({"torch": "2.6.0+cu124", "hydra-core": "1.3.2", "pillow": "13.0.0", "numpy": "1.0"})
    assert {(each.package, each.fixed) for each in found} == {
        ("torch", "2.11.0"),
        ("torch", None),
        ("hydra-core", "1.3.7"),
    }
    assert [each.remedy for each in found if each.package == "hydra-core"] == ["pip install 'hydra-core>=1.3.7'"]
    assert [each.fixed for each in advisories_of({"lightning": "2.6.3"})] == ["2.6.6"]
    assert advisories_of({"protobuf": "6.30.0"}) != []
    assert advisories_of({"protobuf": "5.29.6"}) == []


def test_a_folder_that_cannot_be_written_and_a_full_disk_are_faults(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "sesame")
    file = tmp_path / "file"
    file.touch()
    found = list(findings(file / "outputs", tmp_path / "cache", min_free=1e18))
    states = {(each.state, each.subject, str(file) in each.text) for each in found}
    assert (FAULT, "writing", True) in states
    assert (OK, "writing", False) in states
    assert (FAULT, "disk", True) in states
    assert not any("sesame" in each.text for each in found)
    assert {each.state for each in found} <= {OK, WARNING, FAULT}
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_the_command_ends_with_1_where_runs_would_fail(tmp_path):
    def run(*words):
        line = [sys.executable, str(ROOT / "src" / "doctor.py"), f"paths.output_dir={tmp_path}", *words]
        return subprocess.run(line, capture_output=True, text=True)

    fine, full = run("min_free=0"), run("min_free=1e9")
    assert fine.returncode == 0, fine.stdout + fine.stderr
    assert full.returncode == 1
    assert full.stderr == "error: runs would fail on this machine: see the lines of disk\n"
