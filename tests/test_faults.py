"""The table of faults: it names tests that exist, and its figures are those of the tests that ran."""

import ast
from types import SimpleNamespace

from faults import ROWS, TESTS, row_of, summarised


def test_every_row_names_tests_that_exist():
    for row, (_, tests) in ROWS.items():
        assert tests, row
        for pattern in tests:
            file, _, name = pattern.partition("::")
            defined = [node.name for node in ast.parse((TESTS / file).read_text()).body if hasattr(node, "name")]
            assert any(one.startswith(name or "test_") for one in defined), pattern
            assert {row_of(file, one) for one in defined if one.startswith(name or "test_")} & {row}


def test_a_test_is_of_the_row_that_names_it_and_else_of_that_of_its_file():
    secret = "test_a_secret_in_a_configuration_is_refused_without_being_shown[token]"
    assert row_of("runs/test_foreign_names.py", secret) == "secrets"
    assert row_of("runs/test_foreign_names.py", "test_tables_show_control_characters") == "escapes and HTML in names"
    assert row_of("runs/test_bad_input.py", "test_a_mistake[1]") == "wrong words"
    assert row_of("test_words.py", "test_tables") is None


def report(row, *tried, when="call", outcome="passed"):
    """A report of pytest of a test of a row."""
    properties = [("faults", row), *(("tried", counts) for counts in tried)]
    outcomes = {name: name == outcome for name in ("passed", "failed", "skipped")}
    return SimpleNamespace(user_properties=properties, when=when, **outcomes)


def test_the_figures_are_those_of_the_tests_that_ran():
    """A failed test survived nothing, and what it lost is counted; a setup that failed is a test that failed."""
    kill, nan = "SIGKILL while saving", "NaN and infinity"
    rows, totals = summarised(
        [
            report(kill, {"kills": 50, "bytes_lost": 0}),
            report(kill, {"kills": 50, "bytes_lost": 7}, outcome="failed"),
            report(kill, when="setup"),
            report(kill, outcome="skipped"),
            report(nan),
            report(nan, when="setup", outcome="failed"),
            SimpleNamespace(user_properties=[], when="call", passed=True, skipped=False),
        ]
    )
    assert rows[kill] == {"ran": 2, "passed": 1}
    assert rows[nan] == {"ran": 2, "passed": 1}
    assert totals == {"kills": 50, "bytes_lost": 7, "faults": 1}
