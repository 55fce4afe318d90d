"""Security advisories of the packages that diffsweep uses, and the versions that contain their fixes."""

from collections.abc import Mapping
from typing import NamedTuple

from packaging.specifiers import SpecifierSet


class Advisory(NamedTuple):
    """A published security advisory of a package.

    Attributes:
        package: the name of the package on the index.
        affected: the affected versions, as in ``<2.10``.
        identifier: the advisory, such as a CVE.
        danger: what an attacker can do, in a few words.
        fixed: the first version that contains the fix; None if no version does.
    """

    package: str
    affected: str
    identifier: str
    danger: str
    fixed: str | None

    @property
    def remedy(self) -> str:
        """Return what a user does about the advisory: the command that installs the fix, or what to avoid."""
        if self.fixed is None:
            return "no version has a fix"
        return f"pip install '{self.package}>={self.fixed}'"


# Floors of pyproject.toml are at or above the versions named here, where the Python version has them.
ADVISORIES = (
    Advisory("torch", "<2.10", "CVE-2026-24747", "a checkpoint runs code in spite of weights_only=True", "2.10.0"),
    Advisory("torch", "<=2.10.0", "CVE-2026-4538", "a .pt2 file runs code", "2.11.0"),
    Advisory("torch", "<=2.13.0", "CVE-2026-136426", "a .pt2 file runs code; diffsweep writes them, never reads", None),
    Advisory("lightning", "==2.6.2", "GHSA-w37p-236h-pfx3", "the package steals credentials", "2.6.6"),
    Advisory("lightning", "==2.6.3", "GHSA-w37p-236h-pfx3", "the package steals credentials", "2.6.6"),
    Advisory("lightning", "<2.6.6", "pull requests 21832 and 21914", "load_from_checkpoint runs code", "2.6.6"),
    Advisory("hydra-core", "<1.3.4", "CVE-2026-68508", "a configuration runs code", "1.3.7"),
    Advisory("hydra-core", "<1.3.7", "CVE-2026-106439", "a configuration runs code", "1.3.7"),
    Advisory("pillow", "<12.3", "CVE-2026-59199", "an image writes outside memory", "12.3.0"),
    Advisory("pillow", "<13", "CVE-2026-96639", "an image of several frames writes outside memory", "13.0.0"),
    Advisory("diffusers", "<0.38", "CVE-2026-44513", "a pipeline runs code without trust_remote_code", "0.38.0"),
    Advisory("diffusers", "<0.42.1", "GHSA-4prv-5hj7-c2xr", "a pipeline runs code", "0.42.1"),
    Advisory("transformers", "<=5.2.0", "CVE-2026-5241", "a model runs code without trust_remote_code", "5.3.0"),
    Advisory("onnx", "<1.21", "CVE-2026-27489", "a model reads files outside its folder", "1.21.0"),
    Advisory("sentencepiece", "<0.2.1", "CVE-2026-1260", "a tokeniser writes outside memory", "0.2.1"),
    Advisory("protobuf", "<5.29.6", "CVE-2026-0994", "a message exhausts the stack", "6.33.5"),
    Advisory("protobuf", ">=6,<6.33.5", "CVE-2026-0994", "a message exhausts the stack", "6.33.5"),
    Advisory("pyarrow", "<14.0.1", "CVE-2023-47248", "a parquet file runs code", "14.0.1"),
    Advisory("filelock", "<3.20.3", "CVE-2026-22701", "another user's link truncates a file", "3.20.3"),
    Advisory("scikit-learn", "<1.5", "CVE-2024-5206", "stored words of training texts leak", "1.5.0"),
    Advisory("tqdm", "<4.66.3", "CVE-2024-34062", "options of its command line run code", "4.66.3"),
)


def advisories_of(versions: Mapping[str, str]) -> list[Advisory]:
    """Return the advisories that affect installed packages; of a package's fixable ones, those of the newest fix alone.

    Args:
        versions: the version of each installed package, by its name on the index.
    """
    from packaging.version import Version

    found: dict[tuple[str, bool], Advisory] = {}
    for each in ADVISORIES:
        version = versions.get(each.package)
        if version is None or not SpecifierSet(each.affected).contains(Version(version).public, prereleases=True):
            continue
        key = (each.package, each.fixed is None)
        known = found.get(key)
        if known is None or Version(each.fixed or "0") > Version(known.fixed or "0"):
            found[key] = each
    return list(found.values())
