"""Let Hydra read configuration from a finished run.

``run=DIR`` chooses the option ``run/DIR`` in every group: that group's part of the saved configuration of the run. So a
choice on the command line (``sampler=ddim``) replaces the run's, and everything else stays as it was.
"""

from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from diffsweep.configuration import resolvers  # noqa: F401 - registers the resolvers wherever runs are read
from diffsweep.configuration.conf import SELECTORS, groups
from diffsweep.configuration.saved import saved_of

PREFIX = "run/"
INHERITED = ("seed", "space")  # keys of the root that a run passes on, and no others
OWN = ("paths", "logger")  # groups of the place where a command runs
ABSENT = {"_target_": "diffsweep.autoencoders.nothing"}  # the content of an option that leaves a part out
ADAPTATION = ("adaptation", "full")  # the group that starts a run from another, and the option that from= chooses


class RunSource(ConfigSource):
    """A source from which Hydra reads the saved configuration of finished runs as if it were files of options.

    The names ``run/DIR``, ``resume/DIR`` and ``from/DIR`` stand for all configuration groups of the run in the folder
    DIR, and ``GROUP/run/DIR`` stands for one group of it. ``run`` and ``resume`` also take the run's directory.
    """

    @staticmethod
    def scheme() -> str:
        return "run"

    def available(self) -> bool:
        return True

    def _parse(self, config_path: str) -> tuple[str, str] | None:
        """Return the group (or selector) and the run's directory that a path stands for, or None."""
        group, _, rest = config_path.removesuffix(".yaml").partition("/")
        if rest in ("", "None", "???"):  # a group in which nothing is chosen
            return None
        if group in SELECTORS:
            return group, rest.rstrip("/") or "/"
        return (group, unquote(rest.removeprefix(PREFIX))) if rest.startswith(PREFIX) else None

    def is_group(self, config_path: str) -> bool:
        return config_path in SELECTORS

    def is_config(self, config_path: str) -> bool:
        return self._parse(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []

    def load_config(self, config_path: str) -> ConfigResult:
        parsed = self._parse(config_path)
        assert parsed is not None
        group, directory = parsed
        saved = saved_of(directory)
        if group in SELECTORS:
            content, package = self._selection(saved, directory, group), "_global_"
        else:
            content, package = saved[group], group
        config = OmegaConf.create(OmegaConf.to_container(content, resolve=False))  # type: ignore[arg-type]
        return ConfigResult(provider=self.provider, path=self.full_path(), config=config, header={"package": package})

    def _selection(self, saved: DictConfig, directory: str, selector: str) -> DictConfig:
        plain = OmegaConf.to_container(saved, resolve=False)
        assert isinstance(plain, dict)
        place, new = str(Path(directory).absolute()), selector == "from"
        # What a base goes without is no choice of its own: a new run's model may choose it, such as preferences.
        absent = [group for group in groups() if plain.get(group) == ABSENT]
        left = (*OWN, *([ADAPTATION[0], *absent] if new else []))
        inherited = [group for group in groups() if group in plain["choices"] and group in plain and group not in left]
        if "logger" in plain and not new:  # its choice is no single option if a run has several
            inherited.append("logger")
        content: dict[str, Any] = {
            "defaults": [{f"override /{group}": PREFIX + quote(directory, safe="")} for group in inherited],
            **{key: plain[key] for key in INHERITED if key in plain},
        }
        if new:
            group, option = ADAPTATION
            content["defaults"].append({f"override /{group}": option})
            content[group] = {"run": place}
        else:
            content["paths"] = {"run_dir": place}
        if selector == "resume":
            content["resume_from"] = place
            content["hydra"] = {"run": {"dir": directory}}
        return OmegaConf.create(content)


class RunSearchPath(SearchPathPlugin):
    """A Hydra plugin that adds :class:`RunSource` to Hydra's search path, last, so that conf/ has precedence."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("diffsweep-runs", "run://")
