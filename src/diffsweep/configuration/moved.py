"""Read the former names of classes and keys, in saved runs and on command lines, as the names of today."""

import re
import sys
from collections.abc import Sequence
from typing import Any

# Classes and functions that a configuration names: former name, name of today.
MOVED = {
    "diffsweep.metrics.Frames": "diffsweep.metrics.FrameFeatures",
    "diffsweep.models.DDPM": "diffsweep.models.DiffusionModel",
    "diffsweep.runs.stages.trained": "diffsweep.configuration.loading.trained",
}
# Keys of groups, likewise.
MOVED_KEYS = {"sampler.s_noise": "sampler.temperature", "conditioning.factor": "degradation.factor"}
# Words of a command line whose key became a choice, and what is typed today.
MOVED_WORDS = {
    "conditioning.source=low_res": ("degradation=downsample", "degradation.enlarge=bilinear"),
    "conditioning.source=grey": ("degradation=grey", "degradation.weights=mean"),
    "conditioning.source=hole": ("degradation=mask_box", "degradation.place=centre", "degradation.mask_channel=false"),
}
# Keys that nothing reads any more, each with its group; they are left out at any depth.
GONE = (("conditioning", "seed"),)
# Groups that runs of diffusion models saved before did not have, with the option that they amount to.
NEW = (
    *("cascade", "teacher", "discretisation", "adaptation", "concept", "preference", "comparisons", "scorer"),
    "feature_cache",
)
ADDED: dict[str, tuple[str, dict[str, str]]] = {
    **{group: ("none", {"_target_": "diffsweep.autoencoders.nothing"}) for group in NEW},
    "execution": ("eager", {"_target_": "diffsweep.backbones.Execution", "compile": "none", "backend": "inductor"}),
}


def in_new_names(content: dict[Any, Any]) -> Any:
    """Return the saved configuration of a run, a dict, with former names of classes and keys replaced by today's.

    Keys that are no longer used are left out, and groups that came later are as if they had been left out.
    """
    content = _with_degradation(dict(content))
    for group, (option, added) in ADDED.items():
        if "model" in content and group not in content:
            content |= {group: added, "choices": {**content.get("choices", {}), group: option}}
    for group, key in GONE:
        if group in content:
            content[group] = _without(content[group], key)
    for old, new in MOVED_KEYS.items():
        (group, _, key), now = old.partition("."), new.partition(".")[2]
        node = content.get(group)
        if isinstance(node, dict) and key in node:
            content[group] = {now: node[key]} | {name: value for name, value in node.items() if name != key}
    return renamed(_with_concept(content))


def _with_concept(content: dict[Any, Any]) -> dict[Any, Any]:
    """Return the configuration of a run whose text encoder can be given new words by the group ``concept``."""
    node: Any = content.get("conditioning")
    encoder = node.get("encoder") if isinstance(node, dict) else None
    if not isinstance(encoder, dict) or encoder.get("_target_") != "diffsweep.conditioning.WordEncoder":
        return content
    names = {
        "new_words": "words,null",
        "vectors": "vectors,1",
        "initial": "initial,null",
        "attention": "attention,null",
    }
    added = {name: f"${{oc.select:concept.{key}}}" for name, key in names.items()}
    return {**content, "conditioning": {**node, "encoder": {**added, **encoder}}}


def _with_degradation(content: dict[Any, Any]) -> dict[Any, Any]:
    """Return the configuration of a run with the way in which images of its conditioning are degraded in its own group.

    Runs up to 0.2 have it as ``source`` and ``factor`` of the conditioning.
    """
    node = content.get("conditioning")
    if not isinstance(node, dict) or "source" not in node:
        return content
    factor = node.get("factor", 2)
    option, settings = {
        "low_res": ("downsample", {"factor": factor, "method": "area", "enlarge": "bilinear"}),
        "grey": ("grey", {"weights": "mean"}),
        "hole": ("mask_box", {"share": 1 / factor, "place": "centre", "mask_channel": False}),
    }[node["source"]]
    kind = {"downsample": "Downsampling", "grey": "Greyscale", "mask_box": "Box"}[option]
    kept = {key: value for key, value in node.items() if key not in ("source", "factor")}
    return {
        **content,
        "degradation": {"_target_": f"diffsweep.degradations.{kind}", **settings},
        "conditioning": {**kept, "degradation": "${degradation}", "paste": False},
        "choices": {**content.get("choices", {}), "degradation": option},
    }


def renamed(node: Any) -> Any:
    """Return nested dicts and lists with former names of classes replaced by today's.

    Classes are named under the keys ``_target_`` and ``kind``.
    """
    if isinstance(node, dict):
        names = ("_target_", "kind")
        return {key: MOVED.get(value, value) if key in names else renamed(value) for key, value in node.items()}
    return [renamed(item) for item in node] if isinstance(node, list) else node


def _without(node: Any, key: str) -> Any:
    """Return a mapping without a key, at any depth."""
    return {name: _without(part, key) for name, part in node.items() if name != key} if isinstance(node, dict) else node


def with_new_names(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with former names of keys and classes replaced by today's.

    A line on stderr states each replacement.
    """
    return [now for word in words for now in (_with_new_words(word) or [_with_new_name(word)])]


def _with_new_words(word: str) -> tuple[str, ...]:
    """Return the words that took the place of a whole word, if any, and print them."""
    if words := MOVED_WORDS.get(word.lstrip("+"), ()):
        print(f"NOTE: {word} is {' '.join(words)} now", file=sys.stderr)
    return words


def _with_new_name(word: str) -> str:
    match = re.fullmatch(r"([+~]*)([\w.]+)(?:=(.*))?", word, flags=re.DOTALL)
    if match is None:
        return word
    prefix, key, value = match.groups()
    now, new_value = MOVED_KEYS.get(key, key), MOVED.get(value, value) if key.endswith(("_target_", ".kind")) else value
    for old, new in ((key, now), (value, new_value)):
        if old != new:
            print(f"NOTE: {old} is {new} now", file=sys.stderr)
    return f"{prefix}{now}" + (f"={new_value}" if value is not None else "")
