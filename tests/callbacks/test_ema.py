"""The average of weights in closed form, through Lightning's own trainer."""

import math

import pytest
import torch
from lightning import Callback

from diffsweep.callbacks import EMA, averaged_weights
from diffsweep.callbacks.ema import move, wide_copies

DATA = [0.5, -1.0, 2.0, 0.25, 1.5, -0.75, 1.0, 3.0]


def weights_of(data, start=1.0):
    """Return the weights of the toy after 0, 1, 2, ... steps."""
    weights = [torch.tensor([start, -start])]
    for value in data:
        weights.append(weights[-1] - value)
    return weights


def average_of(weights, decays):
    average = weights[0].clone()
    for weight, decay in zip(weights[1:], decays, strict=True):
        average = decay * average + (1 - decay) * weight
    return average


def test_average_is_the_closed_form(toy, fit):
    """Unrolled: d^n theta_0 + (1 - d) sum d^(n - k) theta_k."""
    ema = EMA(decay=0.9, warmup=False)
    fit(toy(), [ema], DATA)
    weights = weights_of(DATA)
    n = len(DATA)
    expected = 0.9**n * weights[0] + 0.1 * sum(0.9 ** (n - k) * weights[k] for k in range(1, n + 1))
    torch.testing.assert_close(ema.average["weight"], expected)


def test_decay_warms_up(toy, fit):
    """min(d, (1 + n) / (10 + n)) after step n = 1, 2, ...: 2/11, 3/12, 4/13, 0.35 from then on."""
    ema = EMA(decay=0.35)
    fit(toy(), [ema], DATA)
    decays = [2 / 11, 3 / 12, 4 / 13, 0.35, 0.35, 0.35, 0.35, 0.35]
    torch.testing.assert_close(ema.average["weight"], average_of(weights_of(DATA), decays))


@pytest.mark.parametrize("every", [2, 3])
def test_an_update_every_few_steps_has_the_decay_of_all_of_them(toy, fit, every):
    """D is the product of the decays since the last update, also while they warm up; other steps change nothing."""
    ema = EMA(decay=0.35, every=every)
    fit(toy(), [ema], DATA)
    weights, decays = weights_of(DATA), [2 / 11, 3 / 12, 4 / 13, 0.35, 0.35, 0.35, 0.35, 0.35]
    updates = range(every, len(DATA) + 1, every)
    products = [math.prod(decays[step - every : step]) for step in updates]
    expected = average_of([weights[0], *(weights[step] for step in updates)], products)
    torch.testing.assert_close(ema.average["weight"], expected)
    again = EMA(every=every)
    saved = {}
    ema.on_save_checkpoint(None, toy(), saved)
    again.on_load_checkpoint(None, toy(), saved)
    assert (again.step, again.updated) == (len(DATA), updates[-1])


def test_before_a_delayed_start_the_average_is_the_current_weights(toy, fit):
    """Up to the start the decay is 0, so that nothing of the initial weights remains in it later."""
    weights = weights_of(DATA)
    for steps in (2, 3, 4, 8):
        ema = EMA(decay=0.9, start=3, warmup=False)
        fit(toy(), [ema], DATA[:steps])
        expected = weights[steps] if steps <= 3 else average_of(weights[3 : steps + 1], [0.9] * (steps - 3))
        torch.testing.assert_close(ema.average["weight"], expected)


def test_initial_weights_leave_no_trace_after_a_delayed_start(toy, fit):
    averages = []
    for start in (1.0, 1e6):
        ema, module = EMA(decay=0.99, start=1), toy(start)
        with torch.no_grad():  # both are at the same weights after the first step
            difference = weights_of([0.5], start)[1] - weights_of([0.5])[1]

        class Meet(Callback):
            def on_before_optimizer_step(self, trainer, pl_module, optimizer, difference=difference):
                if trainer.global_step == 0:
                    pl_module.weight.grad += difference

        fit(module, [Meet(), ema], DATA)
        averages.append(ema.average["weight"])
    torch.testing.assert_close(*averages, rtol=0, atol=0.1)


def test_validation_uses_the_average_and_training_does_not(toy, fit):
    module, ema = toy(), EMA(decay=0.5, warmup=False)
    fit(module, [ema], DATA, validate_every=2)
    weights = weights_of(DATA)
    for k, seen in zip((2, 4, 6, 8), module.seen.validation, strict=True):
        torch.testing.assert_close(seen, average_of(weights[: k + 1], [0.5] * k))
    for expected, seen in zip(weights, module.seen.training, strict=False):
        torch.testing.assert_close(seen, expected)
    torch.testing.assert_close(module.weight.detach(), weights[-1])


def test_validation_before_a_delayed_start_uses_the_current_weights(toy, fit):
    module = toy()
    fit(module, [EMA(decay=0.99, start=100)], DATA, validate_every=2)
    for k, seen in zip((2, 4, 6, 8), module.seen.validation, strict=True):
        torch.testing.assert_close(seen, weights_of(DATA)[k])


def test_accumulated_gradients_count_once(toy, fit):
    """Two batches a step, with the mean of their gradients, make four averaged steps, not eight."""
    ema = EMA(decay=0.9, warmup=False)
    fit(toy(), [ema], DATA, accumulate_grad_batches=2)
    merged = [(a + b) / 2 for a, b in zip(DATA[::2], DATA[1::2], strict=False)]
    torch.testing.assert_close(ema.average["weight"], average_of(weights_of(merged), [0.9] * 4))
    assert ema.step == 4


@pytest.mark.parametrize("settings", [{}, {"start": 5}, {"warmup": False}])
def test_resumed_equals_uninterrupted(toy, fit, tmp_path, settings):
    whole, first, second = (EMA(decay=0.8, **settings) for _ in range(3))
    fit(toy(), [whole], DATA)
    trainer = fit(toy(), [first], DATA, steps=3)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    resumed = toy(start=5.0)
    fit(resumed, [second], DATA, first=3, ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(resumed.weight.detach(), weights_of(DATA)[-1])
    assert torch.equal(second.average["weight"], whole.average["weight"])
    assert second.step == whole.step


class SaveIn(Callback):
    """Save a checkpoint within a hook, such as one during validation."""

    def __init__(self, hook, path):
        setattr(self, hook, lambda trainer, *_: trainer.save_checkpoint(path))


@pytest.mark.parametrize(("dtype", "reached"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_the_average_of_narrow_weights_does_not_freeze(dtype, reached):
    """1 - 0.5 d^n after n steps at a constant weight of 1, from 0.5: 0.9966 for d = 0.999, n = 5000."""
    average = wide_copies({"w": torch.zeros(2, dtype=dtype)}, {"w": torch.full((2,), 0.5, dtype=dtype)})
    weights = [torch.ones(2, dtype=dtype)]
    for _ in range(5000):
        move(list(average.values()), weights, 1 - 0.999)
    assert average["w"].dtype == reached
    torch.testing.assert_close(average["w"], torch.full((2,), 1 - 0.5 * 0.999**5000, dtype=reached), rtol=1e-4, atol=0)


def test_bfloat16_weights_are_averaged_swapped_saved_and_resumed(toy, fit, tmp_path):
    """The average is the closed form in float32, the module has its rounded values in validation, and files have it."""
    true, files = {"precision": "bf16-true"}, [tmp_path / name for name in ("a.ckpt", "b.ckpt")]
    module, whole = toy(), EMA(decay=0.999, warmup=False)
    fit(module, [whole], DATA, validate_every=8, **true).save_checkpoint(files[0], weights_only=False)
    weights = weights_of(DATA)  # of quarters, which bfloat16 has exactly
    average = average_of(weights, [0.999] * 8)
    assert whole.average["weight"].dtype == torch.float32
    torch.testing.assert_close(whole.average["weight"], average)
    assert torch.equal(module.seen.validation[-1], whole.average["weight"].bfloat16())
    assert torch.equal(module.weight.detach(), weights[-1].bfloat16())
    checkpoint = torch.load(files[0], weights_only=True)
    assert torch.equal(averaged_weights(checkpoint)["weight"], whole.average["weight"])
    assert checkpoint["state_dict"]["weight"].dtype == torch.bfloat16
    first, second = EMA(decay=0.999, warmup=False), EMA(decay=0.999, warmup=False)
    fit(toy(), [first], DATA, steps=3, **true).save_checkpoint(files[1], weights_only=False)
    fit(toy(start=5.0), [second], DATA, first=3, ckpt_path=files[1], **true)
    assert torch.equal(second.average["weight"], whole.average["weight"])


@pytest.mark.parametrize("hook", ["on_train_end", "on_validation_epoch_end", "on_validation_end"])
def test_a_checkpoint_has_the_weights_and_their_average(toy, fit, tmp_path, hook):
    """The state dict has the weights that train, whichever of both is in the module at the time."""
    fit(toy(), [EMA(decay=0.5, warmup=False), SaveIn(hook, tmp_path / "a.ckpt")], DATA, validate_every=8)
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    weights = weights_of(DATA)
    torch.testing.assert_close(checkpoint["state_dict"]["weight"], weights[-1])
    average = averaged_weights(checkpoint)
    torch.testing.assert_close(average["weight"], average_of(weights, [0.5] * 8))
    assert torch.equal(average["frozen"], torch.tensor([7.0]))


def test_averaged_weights_without_an_average_are_the_weights():
    state = {"weight": torch.ones(2)}
    assert averaged_weights({"state_dict": state}) == state


def test_applied_puts_the_average_in_and_takes_it_out_again(toy, fit):
    module, ema = toy(), EMA(decay=0.5, warmup=False)
    fit(module, [ema], DATA)
    current, average = module.weight.detach().clone(), ema.average["weight"].clone()
    assert not torch.equal(current, average)
    with ema.applied(module):
        assert torch.equal(module.weight.detach(), average)
        with ema.applied(module):  # nesting changes nothing
            assert torch.equal(module.weight.detach(), average)
        assert torch.equal(module.weight.detach(), average)
    assert torch.equal(module.weight.detach(), current)
    assert torch.equal(ema.average["weight"], average)
    with pytest.raises(RuntimeError), ema.applied(module):
        raise RuntimeError
    assert torch.equal(module.weight.detach(), current)
    assert torch.equal(ema.average["weight"], average)


def test_a_failure_in_validation_leaves_the_weights_that_train(toy, fit):
    class Fail(Callback):
        def on_validation_batch_end(self, *_):
            raise RuntimeError("in validation")

    module, ema = toy(), EMA(decay=0.5, warmup=False)
    with pytest.raises(RuntimeError, match="in validation"):
        fit(module, [ema, Fail()], DATA, validate_every=4)
    weights = weights_of(DATA[:4])
    torch.testing.assert_close(module.weight.detach(), weights[-1])
    torch.testing.assert_close(ema.average["weight"], average_of(weights, [0.5] * 4))


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"callbacks\.ema\.decay"):
        EMA(decay=decay)


def test_updates_that_never_come_are_refused():
    with pytest.raises(ValueError, match=r"callbacks\.ema\.every"):
        EMA(every=0)
