"""The words of the glossary: names, docstrings, comments and messages are in the plain terms of the field.

Each word that is not used has the one that is. The glossary is for whoever writes; this list is for whoever forgets.
"""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
SETTINGS = sorted((ROOT / "conf").rglob("*.yaml"))
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__).resolve())
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "conf").rglob("*.md"), *(ROOT / "notebooks").glob("*.*")})
LONGEST = 120

INSTEAD = {
    "told": "condition, annotations, given by, reported",
    "tell": "report, print, distinguish",
    "tells": "reports, distinguishes",
    "telling": "reporting",
    "asked": "requested, evaluated at",
    "ask": "request, evaluate",
    "asks": "requests, evaluates",
    "asking": "requesting",
    "said": "given, stated, reported",
    "say": "report, state",
    "says": "reports, states, predicts, defines",
    "saying": "stating",
    "hear": "receive",
    "hears": "receives",
    "heard": "received",
    "there": "name the place: at s, in the run, if any; or leave it out",
    "gift": "provides",
    "gifts": "provides",
    "unfit": "incompatible",
    "walk": "trajectory, sampling",
    "walks": "trajectories, samples",
    "walked": "sampled",
    "walking": "sampling",
}
IN_IDENTIFIERS = {**INSTEAD, "needs": "requires", "see": "replace_samples", "knowing": "measurement"}
ALLOWED = re.compile(r"\bWalkOptions\b|\bwalk options\b|\bos\.walk\b|\bast\.walk\b|\b_walk\b", re.IGNORECASE)
LIBRARY = {"walk", "tell", "ask"}  # methods of libraries: ast.walk(tree), file.tell(), study.ask() of Optuna
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
NO_SENTENCE = re.compile(r"(?:Of|What|How|Whether|Or|From|Where|Those|The|A|An|One|No|As|It|In|With)\b")


def offending(text: str) -> list[str]:
    """Return the words of a text that the glossary replaces, each with what to write."""
    words = re.findall(r"[a-z]+", ALLOWED.sub("", text).lower())
    return [f"{word} ({INSTEAD[word]})" for word in words if word in INSTEAD]


def tokens(path: Path) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline))


def names_of(path: Path) -> set[str]:
    return {token.string for token in tokens(path) if token.type == tokenize.NAME} - LIBRARY


def shown(path: Path, line: int, found: list[str]) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {', '.join(found)}"


def wrong_names(path: Path) -> list[str]:
    parts = {name: [part.lower() for part in WORD.findall(name)] for name in names_of(path) if not ALLOWED.search(name)}
    return [f"{path.relative_to(ROOT)}: {name}" for name, of in parts.items() if set(of) & IN_IDENTIFIERS.keys()]


def wrong_texts(path: Path) -> list[str]:
    texts = [token for token in tokens(path) if token.type in (tokenize.STRING, tokenize.COMMENT)]
    found = [(token.start[0], offending(token.string)) for token in texts]
    return [shown(path, line, words) for line, words in found if words]


def no_sentences(path: Path) -> list[str]:
    """Return the functions whose docstring does not begin with what the function does."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            first = (ast.get_docstring(node) or "").partition("\n")[0]
            found += (
                [f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}: {first}"] if NO_SENTENCE.match(first) else []
            )
    return found


@pytest.mark.parametrize("check", [wrong_names, wrong_texts, no_sentences])
def test_the_source_is_in_the_words_of_the_glossary(check):
    assert not [line for path in SOURCES for line in check(path)]


def test_the_settings_are_in_the_words_of_the_glossary():
    lines = [(path, i, offending(line)) for path in SETTINGS for i, line in enumerate(path.read_text().splitlines(), 1)]
    assert not [shown(*line) for line in lines if line[2]]


@pytest.mark.parametrize("check", [wrong_names, wrong_texts])
def test_the_tests_are_in_the_words_of_the_glossary(check):
    assert not [line for path in TESTS for line in check(path)]


def test_the_pages_and_notebooks_are_in_the_words_of_the_glossary():
    """Names in code, such as old ones of a changelog, may be anything, and so may the encoded pictures of notebooks."""
    lines = [
        (path, i, offending(re.sub(r"`[^`]*`|\"image/(?:png|jpeg)\": .*", "", line)))
        for path in PAGES
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    ]
    assert not [shown(*line) for line in lines if line[2]]


def test_no_line_is_longer_than_a_window():
    texts = [*SOURCES, *SETTINGS, *TESTS]
    lines = [(path, i, len(line)) for path in texts for i, line in enumerate(path.read_text().splitlines(), 1)]
    assert not [f"{path.relative_to(ROOT)}:{i}: {size}" for path, i, size in lines if size > LONGEST]


def test_a_name_of_a_class_has_one_meaning():
    """A schedule and a prediction are both called EDM and Flow, as their papers call both."""
    where = {}
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            names = (
                [node.name] if isinstance(node, ast.ClassDef) else [t.id for t in targets if isinstance(t, ast.Name)]
            )
            for name in names:
                if re.match(r"[A-Z][a-z]|[A-Z]+$", name) and (isinstance(node, ast.ClassDef) or not name.isupper()):
                    where.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name for name, paths in where.items() if len(paths) > 1} == {"EDM", "Flow"}


def test_the_list_finds_what_it_is_for():
    assert offending("The condition that a network is told, as the walk asks.") == [
        "told (condition, annotations, given by, reported)",
        "walk (trajectory, sampling)",
        "asks (requests, evaluates)",
    ]
    assert not offending("The walk options of a sampler; ``_walk``; os.walk(path); foretold.")
