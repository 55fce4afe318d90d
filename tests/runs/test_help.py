"""``--help`` and conf/README.md: each group, option and key is described, and pages are plain and current."""

import re
import sys

import pytest

from diffsweep.configuration import texts
from diffsweep.configuration.comments import Entry, text_of
from diffsweep.configuration.conf import about, defaults, groups, options
from diffsweep.configuration.help import COMMANDS, command_keys, groups_of, help_text
from diffsweep.configuration.reference import COMMAND, REFERENCE, _anchor, reference
from diffsweep.configuration.source import argument, summary
from diffsweep.errors import UserError
from diffsweep.runs.cli import main

OPTIONS = [(group, option) for group in groups() for option in options(group)]
FILES = [*OPTIONS, *((group, name) for group in groups() for name in texts.shared(group))]


def test_every_group_is_described_and_names_an_option_to_begin_with():
    assert sorted(about()) == groups()
    assert next(iter(about())) == "model"
    for group, (decides, begin) in about().items():
        assert begin in options(group)
        assert re.fullmatch(r"[A-Z].{10,97}\.", decides), group


def test_every_option_has_a_line():
    for group, option in FILES:
        line = texts.line(group, option)
        assert re.fullmatch(r".{5,117}\.", line), f"conf/{group}/{option}.yaml does not begin with a comment: {line!r}"


def test_every_key_has_a_text():
    missing = [
        f"{group}.{key.name} in conf/{group}/{option}.yaml"
        for group, option in FILES
        for key in texts.keys(group, option).values()
        if not texts.wired(key) and not key.text
    ]
    assert not missing, f"write a comment behind {', '.join(missing)}"
    assert all(key.text for command in COMMANDS for key in command_keys(command))


def test_the_reference_is_current():
    current = REFERENCE.read_text(encoding="utf-8") == reference()
    assert current, f"conf/README.md is not what the comments of conf/ give; run `{COMMAND}`"


def test_links_of_the_reference_lead_to_headings_of_their_own():
    text = REFERENCE.read_text(encoding="utf-8")
    anchors = [_anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    links = re.findall(r"\]\(#([^)]*)\)", text)
    assert set(links) <= set(anchors)
    assert all(anchors.count(link) == 1 for link in links)


def test_tables_of_the_reference_have_short_cells():
    rows = [line for line in REFERENCE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [re.sub(r"\]\([^)]*\)", "]", cell) for row in rows for cell in re.split(r"(?<!\\)\|", row)]
    assert max(map(len, cells)) < 220


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_its_groups_and_keys(command):
    text = help_text(command)
    assert all(len(line) <= 120 for line in text.splitlines())
    shown = re.findall(r"^  (\w+) +[A-Z]", text.partition("\nKeys of this command")[0], re.MULTILINE)
    assert shown == groups_of(command)
    assert ("task" in shown) == (command in ("sample", "verify"))
    for name in {key.name.partition(".")[0] for key in command_keys(command)} - {"space", "condition"}:
        assert re.search(rf"^  {name} ", text, re.MULTILINE), name
    assert "Examples:\n  python src/" in text
    assert "--help GROUP=OPTION" in text


def test_the_help_folds_presets_and_marks_the_default():
    text = " ".join(help_text("train").split())
    assert "dit (and 12 presets: dit_s_2 ... dit_xl_8), pixart" in text
    assert "dit_b_4" not in text
    assert "ancestral*, consistency, ddim," in text
    assert "ancestral, consistency, ddim*," in " ".join(help_text("benchmark").split())
    assert "*," not in help_text("sample")  # the run has the defaults


@pytest.mark.parametrize("group", groups())
def test_pages_fit_a_window(group):
    command = next(command for command in COMMANDS if group in groups_of(command))
    for topic in (group, *(f"{group}={option}" for option in options(group))):
        page = help_text(command, [topic])
        assert topic in page
        assert all(len(line) <= 120 for line in page.splitlines()), page


def test_the_page_of_a_group_has_its_options():
    page = help_text("train", ["sampler"])
    assert page.startswith(f"sampler: {about()['sampler'].decides}\nThe default is ancestral. Begin with ddim.")
    assert all(re.search(rf"^  {option} ", page, re.MULTILINE) for option in options("sampler"))


def test_the_page_of_an_option_has_its_keys_paper_and_requirements():
    page = help_text("train", ["objective=hybrid"])
    assert "https://arxiv.org/abs/2102.09672" in page
    assert "Requires the T steps of a discrete schedule: schedule=cosine" in page
    assert re.search(r"^  vlb_weight +0\.001 +weight of the bound", page, re.MULTILINE)
    page = help_text("train", ["sampler=deis"])
    assert re.search(r"^  steps +20 ", page, re.MULTILINE)
    assert page.index("  order") < page.index("  steps")  # its own keys come first
    assert "sampler=ddim  sampler.spacing=karras" in help_text("train", ["model=edm"])
    assert "channels=384  num_heads=6  depth=12" in help_text("train", ["backbone=dit"])


def test_the_page_of_a_key_has_its_meaning_and_defaults():
    page = help_text("train", ["sampler.steps"])
    assert page.startswith("sampler.steps: steps from sampler.start")
    assert "500 by default with sampler=euler_maruyama" in page
    assert "keys all randomness" in help_text("train", ["seed"])
    assert "space.image_size" in help_text("train", ["space"])


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        ("schedul", "schedul: no such group or key of train, did you mean schedule?"),
        ("schedule=lineer", "schedule=lineer: no such option, did you mean linear?"),
        ("sampler.step", "sampler.step: no such group or key of train, did you mean sampler.steps?"),
        ("task", "train has no group task; try python src/sample.py --help task"),
        ("sampler=_walk", "sampler=_walk: no such option"),
    ],
)
def test_an_unknown_topic_is_answered_with_the_nearest_one(topic, message):
    with pytest.raises(UserError, match=re.escape(message)):
        help_text("train", [topic])


def test_help_on_an_unknown_topic_ends_with_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "schedul", "--help"])
    with pytest.raises(SystemExit) as ended:
        main("train")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: schedul: no such group or key of train, did you mean schedule?\n"
    monkeypatch.setattr(sys, "argv", ["train.py", "--help", "schedule=vp", "sampler"])
    main("train")
    out = capsys.readouterr().out
    assert out.startswith("schedule=vp\n")
    assert "\n\nsampler: " in out


def test_comments_are_read_with_their_keys(tmp_path):
    path = tmp_path / "it.yaml"
    path.write_text(
        "# @package _global_\n# A line.\n# And more.\n\n# what is built\nnode:\n  size: 3 # of it\n"
        "  words: # all\n    [a, b]\n  # above\n  name: '#1'\nlist: # two\n  - x=1\n  - y\n"
    )
    assert text_of(path).header == ("A line.", "And more.")
    assert text_of(path).is_global
    assert text_of(path).entries == (
        Entry("node", "", "what is built"),
        Entry("node.size", "3", "of it"),
        Entry("node.words", "[a, b]", "all"),
        Entry("node.name", "'#1'", "above"),
        Entry("list", "[x=1, y]", "two"),
    )
    assert text_of(tmp_path / "none.yaml") == ((), False, ())


def test_arguments_are_read_from_docstrings_of_the_class_its_options_and_its_bases():
    assert argument("diffsweep.samplers.DDIM", "eta")
    assert argument("diffsweep.samplers.DDIM", "steps")  # of a base
    assert argument("diffsweep.backbones.UNet", "norm_eps")  # of a base of its options
    assert argument("diffsweep.diffusion.Eps", "variance")  # of a base that the module imports or defines
    assert argument("diffsweep.samplers.DDIM", "none") == argument("torch.optim.Adam", "lr") == ""
    assert summary("diffsweep.samplers.DDIM")


def test_defaults_are_those_of_the_command():
    assert (defaults()["sampler"], defaults("benchmark")["sampler"]) == ("ancestral", "ddim")
    assert "task" in defaults("sample")
    assert "task" not in defaults("train")


def test_presets_are_in_the_order_of_their_sizes():
    assert texts.presets("backbone", "uvit")[:2] == ["uvit_s_2", "uvit_s_deep_2"]
    assert texts.presets("backbone", "dit")[-2:] == ["dit_xl_8", "pixart"]
    assert not texts.is_preset("conditioning", "text_t5")  # it builds another encoder
    assert texts.family_of("backbone", "pixart") == "dit"
