"""Tests of faults and bad input: which row of the table of promises each belongs to, and a table of what ran.

``make faults`` (``pytest -m faults``) runs them all, and prints at its end how many tests of each row ran and passed,
and how many kills, injected faults and bad inputs these were. All figures come from the tests that ran: a test that
passes counts one of its row's kind, and a test of many records how many by the fixture ``tried``.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest


class Row(NamedTuple):
    """What a passing test of a row counts as, a name of ``TOTALS``, and its tests: files, or ``FILE::NAME``."""

    kind: str
    tests: tuple[str, ...]


ROWS = {
    "wrong words": Row(
        "inputs",
        (
            "runs/test_bad_input.py",
            "runs/test_rules.py::test_a_rule_refuses_with_what_to_type",
            "runs/test_suggestions.py::test_a_key_is_answered_with_where_it_lies",
            "runs/test_suggestions.py::test_an_option_is_answered_with_those_of_its_group",
            "runs/test_suggestions.py::test_a_value_is_answered_with_what_is_accepted",
            "runs/test_suggestions.py::test_a_word_with_dashes_is_answered_with_the_override",
        ),
    ),
    "random options": Row("inputs", ("runs/test_random_options.py",)),
    "classes that may not be built": Row("inputs", ("runs/test_untrusted.py",)),
    "malicious files": Row(
        "inputs",
        (
            "test_reading_files.py",
            "test_tensor_files.py::test_nothing_in_a_file_is_executed",
            "runs/test_checkpoints.py::test_reading_executes_nothing",
            "runs/test_stages.py::test_the_configuration_of_a_stage_runs_no_code",
        ),
    ),
    "secrets": Row(
        "inputs",
        (
            "runs/test_configuration.py::test_a_secret_of_the_environment_is_on_no_disk",
            "runs/test_foreign_names.py::test_a_secret_in_a_configuration_is_refused_without_being_shown",
        ),
    ),
    "escapes and HTML in names": Row(
        "inputs",
        (
            "runs/test_foreign_names.py::test_names_of_classes_and_captions_are_shown_and_do_nothing",
            "runs/test_foreign_names.py::test_tables_show_control_characters",
            "runs/test_foreign_names.py::test_an_error_is_one_line_whatever_it_quotes",
        ),
    ),
    "bad images, metadata and archives": Row(
        "inputs",
        (
            "datasets/test_bad_files.py",
            "datasets/test_tars_and_arrow.py::test_members_outside_of_their_folder_and_links_are_refused",
            "datasets/test_images.py::test_a_file_that_is_no_image_is_refused_in_one_line",
            "datasets/test_images.py::test_sixteen_bits_are_scaled_and_not_clipped",
            "datasets/test_decoding.py::test_the_first_unreadable_image_is_named_with_the_way_to_skip_it",
            "datasets/test_decoding.py::test_unreadable_images_are_skipped_counted_and_listed",
            "datasets/test_decoding.py::test_images_that_were_skipped_are_refused_by_a_run_that_skips_fewer",
            "datasets/test_decoding.py::test_a_table_without_any_readable_image_is_refused",
            "datasets/test_image_folder.py::test_the_message_of_a_mistake_is_one_line_and_names_the_file",
            "datasets/test_streaming.py::test_an_unreadable_image_is_skipped_and_listed_or_refused_by_name",
            "datasets/test_streaming.py::test_a_label_that_is_no_class_is_named",
            "tasks/test_sources.py",
        ),
    ),
    "data that have moved": Row("faults", ("runs/test_moved_data.py",)),
    "damaged checkpoints": Row(
        "inputs",
        (
            "runs/test_damaged.py",
            "test_tensor_files.py::test_the_checkpoint_before_the_last_is_kept",
            "test_tensor_files.py::test_one_changed_byte_anywhere_is_an_error",
            "test_tensor_files.py::test_a_damaged_file_is_refused_in_one_line",
            "test_tensor_files.py::test_a_file_without_a_hash_is_read_as_before",
        ),
    ),
    "SIGKILL while saving": Row(
        "kills",
        (
            "test_tensor_files.py::test_a_kill_while_saving_leaves_whole_files",
            "test_tensor_files.py::test_fifty_kills_while_saving_leave_whole_files",
            "runs/test_stages.py::test_a_killed_run_leaves_no_lock",
            "runs/test_sweep_processes.py::test_a_killed_sweep_repeats_the_steps_since_the_last_checkpoint_alone",
            "runs/test_sweep_processes.py::test_jobs_whose_sweep_was_killed_end_and_leave_no_process",
        ),
    ),
    "a full disk, a writer that fails": Row(
        "faults",
        (
            "test_files.py",
            "test_tensor_files.py::test_a_full_disk_is_one_line_and_the_old_checkpoint_stays",
            "test_tensor_files.py::test_a_limit_of_the_size_of_files_is_named",
            "runs/test_damaged.py::test_a_full_disk_ends_training_with_one_line_and_whole_files",
            "runs/test_checkpoints.py::test_a_writer_that_fails_midway_leaves_the_old_checkpoint",
        ),
    ),
    "exact resume": Row(
        "faults",
        (
            "runs/test_resume.py",
            "runs/test_resume_matrix.py",
            "datasets/test_streaming.py::test_a_resumed_run_goes_on_with_the_same_batches",
        ),
    ),
    "another number of processes": Row(
        "faults",
        (
            "runs/test_resume_changes.py::test_two_devices_go_on_where_one_was",
            "runs/test_ranks.py::test_a_run_on_two_devices_has_the_numbers_of_one_process",
            "datasets/test_streaming.py::test_devices_share_the_batches_of_one",
        ),
    ),
    "SIGTERM, Ctrl-C": Row("faults", ("runs/test_stopping.py",)),
    "several processes, of which one stops": Row("faults", ("runs/test_ranks_that_stop.py",)),
    "two processes in one run": Row(
        "faults",
        (
            "runs/test_resume_changes.py::test_a_run_that_is_trained_is_refused_by_name_and_can_be_sampled",
            "runs/test_sweeps.py::test_the_same_line_twice_takes_what_nobody_has",
            "runs/test_checkpoints.py::test_a_directory_with_a_run_is_not_overwritten",
        ),
    ),
    "resuming what does not fit": Row("inputs", ("runs/test_resume_changes.py", "runs/test_saved.py")),
    "jobs of a sweep that fail": Row(
        "faults",
        (
            "runs/test_manifest.py::test_a_job_that_fails_is_recorded_and_one_that_is_stopped_stops_the_sweep",
            "runs/test_manifest.py::test_a_killed_job_is_interrupted_and_a_running_one_is_left_alone",
            "runs/test_manifest.py::test_a_result_that_is_lost_is_made_again",
            "runs/test_manifest.py::test_of_jobs_that_died_side_by_side_each_goes_on_alone",
            "runs/test_supervising.py",
            "runs/test_sweep_processes.py",
            "runs/test_sweeps.py::test_failing_jobs_do_not_stop_the_others_and_are_tried_again",
            "runs/test_sweeps.py::test_a_launcher_that_cannot_start_jobs_is_answered_in_one_line",
            "runs/test_sweeps.py::test_a_stopped_sweep_is_continued",
        ),
    ),
    "W&B": Row(
        "faults",
        (
            "runs/test_wandb_faults.py",
            "runs/test_wandb.py::test_a_failed_evaluation_ends_as_failed",
            "runs/test_wandb.py::test_a_resumed_run_goes_on_in_its_run",
            "runs/test_tracking.py::test_a_failed_run_is_marked_failed",
            "runs/test_tracking.py::test_a_diverged_run_is_marked_failed",
        ),
    ),
    "NaN and infinity": Row(
        "faults",
        (
            "callbacks/test_finite.py",
            "runs/test_replay.py",
            "runs/test_checkpoints.py::test_a_diverged_run_raises_and_saves_no_nan",
            "runs/test_checkpoints.py::test_a_diverged_run_is_one_line_and_exit_code_1",
            "runs/test_checkpoints.py::test_a_nan_loss_leaves_the_checkpoint_before_it",
        ),
    ),
    "processes that read data": Row(
        "faults",
        (
            "datasets/test_streaming.py::test_a_process_that_ends_or_hangs_is_one_line",
            "datasets/test_streaming.py::test_a_dataset_that_stops_or_exits_is_no_short_epoch",
        ),
    ),
    "metrics of few or bad samples": Row(
        "inputs",
        (
            "runs/test_few_samples.py",
            "metrics/test_frechet.py::test_it_equals_torchmetrics_also_with_singular_covariances",
            "metrics/test_frechet.py::test_of_few_samples_it_is_the_nuclear_norm_of_the_products",
            "metrics/test_frechet.py::test_features_that_are_no_numbers_are_refused",
            "metrics/test_frechet.py::test_one_sample_has_no_covariance",
            "metrics/test_neighbours.py::test_too_few_points_are_refused",
        ),
    ),
    "overflow of float16": Row("faults", ("callbacks/test_overflow.py",)),
    "a device without memory": Row("faults", ("runs/test_memory.py",)),
    "devices that are missing": Row("inputs", ("runs/test_machine.py",)),
}
TOTALS = {
    "kills": "kills survived",
    "faults": "faults injected",
    "inputs": "bad inputs tried",
    "bytes_lost": "bytes lost",
}
TESTS = Path(__file__).parents[1]
ROW, TRIED = "faults", "tried"


def row_of(file, name):
    """Return the row of a test by its file, relative to ``tests``, and its name; None for one of no row.

    Of rows that have its file and its name the longest match counts, so that a test can be apart from its file.
    """
    matches = {pattern: row for row, (_, tests) in ROWS.items() for pattern in tests}
    test = f"{file}::{name}"
    found = [pattern for pattern in matches if test.startswith(pattern if "::" in pattern else f"{pattern}::")]
    return matches[max(found, key=len)] if found else None


def pytest_collection_modifyitems(items):
    """Mark the tests of faults, and name their rows in their reports, which the processes of pytest-xdist send too."""
    for item in items:
        if TESTS in item.path.parents and (row := row_of(item.path.relative_to(TESTS).as_posix(), item.name)):
            item.add_marker(pytest.mark.faults)
            item.user_properties.append((ROW, row))


@pytest.fixture
def tried(request):
    """``tried(kills=50, bytes_lost=0)``: what a test of many kills, faults or inputs has tried, in place of one."""

    def tried(**counts):
        assert counts.keys() <= TOTALS.keys()
        request.node.user_properties.append((TRIED, counts))

    return tried


def summarised(reports):
    """Return ``(rows, totals)``: of each row the tests that ran and passed, and the sums of what they tried.

    Args:
        reports: reports of pytest; those of tests that were skipped, and of setups that passed, are passed over.
    """
    rows, totals = {row: Counter() for row in ROWS}, Counter()
    for report in reports:
        row = next((value for name, value in report.user_properties if name == ROW), None)
        if row is None or report.skipped or (report.when != "call" and report.passed):
            continue
        rows[row]["ran"] += 1
        rows[row]["passed"] += report.passed
        for counts in [value for name, value in report.user_properties if name == TRIED] or [{ROWS[row].kind: 1}]:
            # what a failed test tried was not survived; what it lost is lost
            totals.update({name: n for name, n in counts.items() if report.passed or name == "bytes_lost"})
    return rows, totals


def pytest_terminal_summary(terminalreporter, config):
    """Print the table where tests of faults are chosen."""
    if "faults" not in config.option.markexpr:
        return
    every = [report for reports in terminalreporter.stats.values() for report in reports]
    rows, totals = summarised([report for report in every if isinstance(report, pytest.TestReport)])
    width = max(map(len, ROWS)) + 2
    terminalreporter.section("faults")
    terminalreporter.write_line(f"{'':{width}} {'tests':>6} {'passed':>7}")
    for row, count in rows.items():
        shown = f"{count['ran']:6} {count['passed']:7}" if count["ran"] else f"{'none':>6}"
        terminalreporter.write_line(f"{row:{width}} {shown}{'  FAILED' * (count['passed'] < count['ran'])}")
    terminalreporter.write_line("")
    for name, words in TOTALS.items():
        terminalreporter.write_line(f"{words:{width}} {totals[name]:6}")
