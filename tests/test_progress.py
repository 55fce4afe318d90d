"""Progress is a bar on a terminal, and elsewhere a line every 30 seconds."""

import io
from types import SimpleNamespace

import pytest
import torch

from diffsweep.callbacks import TrainingProgress
from diffsweep.progress import ProgressMeter, duration, tracked


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.delenv("TQDM_MININTERVAL", raising=False)
    return Clock()


def run(clock, steps, seconds, **settings):
    """Return the lines that a loop writes whose steps take so many seconds each."""
    file = io.StringIO()
    with ProgressMeter("sampling", steps, file=file, clock=clock, **settings) as progress:
        for _ in range(steps):
            clock.seconds += seconds
            progress.update()
    return file.getvalue()


def test_a_log_gets_a_line_every_30_seconds_and_one_at_the_end(clock):
    written = run(clock, steps=100, seconds=1.0)
    assert "\r" not in written
    assert written.splitlines() == [
        "  sampling           step  30/100   1 steps/s   1 min 10 s left",
        "  sampling           step  60/100   1 steps/s   40 s left",
        "  sampling           step  90/100   1 steps/s   10 s left",
        "  sampling           step 100/100   1 steps/s   in 1 min 40 s",
    ]


def test_a_line_comes_with_the_first_step_after_30_seconds(clock):
    lines = run(clock, steps=4, seconds=50.0, initial=0).splitlines()
    assert [line.split()[2] for line in lines] == ["1/4", "2/4", "3/4", "4/4", "4/4"]


def test_a_resumed_loop_counts_its_own_steps_alone(clock):
    file = io.StringIO()
    with ProgressMeter("training", 1000, initial=900, file=file, clock=clock) as progress:
        clock.seconds += 40
        progress.update(20)
    first, last = file.getvalue().splitlines()
    assert first.endswith("step  920/1000   0.5 steps/s   2 min 40 s left")
    assert last.endswith("step  920/1000   0.5 steps/s   in 40 s")


def test_details_stand_in_place_of_the_rate_and_are_read_only_for_a_line(clock):
    read = []

    def details():
        read.append(clock.seconds)
        return ["loss 0.5"]

    written = run(clock, steps=90, seconds=0.5, details=details)
    assert len(read) == 2  # after 30 of 45 seconds, and at the end
    assert written.splitlines()[0].endswith("step 60/90   loss 0.5   15 s left")


@pytest.mark.parametrize(("count", "rate"), [(123456, "12,346"), (1010, "101"), (995, "99.5"), (1, "0.1")])
def test_rates_are_plain_numbers(clock, count, rate):
    file = io.StringIO()
    with ProgressMeter("decoding", file=file, clock=clock) as progress:
        clock.seconds += 10
        progress.update(count)
    assert f" {rate} steps/s " in file.getvalue()


@pytest.mark.parametrize("unit", ["batch", "image"])
def test_units_have_a_plural_and_an_unknown_total_is_left_out(clock, unit):
    file = io.StringIO()
    with ProgressMeter("decoding", None, unit, file=file, clock=clock) as progress:
        clock.seconds += 10
        progress.update(20)
    assert file.getvalue().endswith(f"{unit} 20   2 {'batches' if unit == 'batch' else 'images'}/s   in 10 s\n")


def test_an_error_leaves_no_last_line(clock):
    file = io.StringIO()
    with pytest.raises(ZeroDivisionError), ProgressMeter("sampling", 2, file=file, clock=clock):
        1 / 0  # noqa: B018
    assert file.getvalue() == ""


def test_tqdms_variables_turn_lines_off_and_set_their_distance(clock, monkeypatch):
    monkeypatch.setenv("TQDM_MININTERVAL", "50")
    assert len(run(clock, steps=100, seconds=1.0).splitlines()) == 3
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert run(clock, steps=100, seconds=1.0) == ""


def test_only_the_first_process_of_a_run_writes(clock):
    assert run(clock, steps=100, seconds=1.0, disable=True) == ""


class Terminal(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_that_is_redrawn(clock):
    terminal = Terminal()
    with ProgressMeter(
        "sampling", 4, file=terminal, details=lambda: ["loss 0.5", "8 samples/s"], clock=clock
    ) as progress:
        for _ in range(4):
            progress.update()
    written = terminal.getvalue()
    assert "\rsampling: 100%|" in written
    assert "4/4" in written
    assert "loss 0.5, 8 samples/s" in written
    assert written.count("\n") == 1


def test_tracked_items_are_yielded_and_counted(capsys):
    assert list(tracked([1, 2, 3], "proving", "proof")) == [1, 2, 3]
    assert "proof 3/3" in capsys.readouterr().err


class Loss:
    """A loss that counts how often it is read."""

    read = 0

    def item(self):
        Loss.read += 1
        return 0.25


@pytest.fixture
def training(clock, monkeypatch, capsys):
    """``lines = training(steps, seconds)``: the lines of a training whose steps take so many seconds each."""

    def training(steps, seconds, rank=0, validate=()):
        monkeypatch.setattr("time.perf_counter", clock)
        trainer = SimpleNamespace(max_steps=steps, global_step=0, is_global_zero=rank == 0, world_size=2)
        progress = TrainingProgress()
        progress.on_train_start(trainer, None)
        for _ in range(steps):
            clock.seconds += seconds
            trainer.global_step += 1
            batch = {"position": torch.arange(8)}
            progress.on_train_batch_end(trainer, None, {"loss": Loss()}, batch, trainer.global_step - 1)
            if trainer.global_step in validate:
                progress.on_validation_start(trainer, None)
                clock.seconds += 20
                progress.on_validation_end(trainer, None)
        progress.on_train_end(trainer, None)
        return capsys.readouterr().err.splitlines()

    return training


def test_training_shows_loss_and_speed_and_reads_the_loss_only_for_a_line(training):
    Loss.read = 0
    assert training(80, 0.5) == [
        "  training           step 60/80   loss 0.2500   32 samples/s   10 s left",
        "  training           step 80/80   loss 0.2500   32 samples/s   in 40 s",
    ]
    assert Loss.read == 2


def test_time_of_validation_does_not_count_in_the_speed(training):
    lines = training(60, 1.0, validate=(20, 60))
    assert [line.split(maxsplit=2)[2] for line in lines] == [
        "21/60   loss 0.2500   16 samples/s   1 min 16 s left",
        "51/60   loss 0.2500   16 samples/s   13 s left",
        "60/60   loss 0.2500   16 samples/s   in 1 min 40 s",
    ]


def test_other_processes_of_a_training_write_nothing(training):
    assert training(80, 0.5, rank=1) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (75, "1 min 15 s"), (3599, "59 min 59 s"), (3600, "1 h 0 min"), (7530, "2 h 5 min")],
)
def test_durations_are_in_hours_minutes_and_seconds(seconds, words):
    assert duration(seconds) == words
