"""A combined optimizer, compared with the same optimizers stepped one by one, by hand and by Lightning."""

import io

import lightning
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from trainers import QUIET

from diffsweep.models.base import Model
from diffsweep.models.lr_schedulers import cosine
from diffsweep.models.optimizers import CombinedOptimizer


def networks():
    torch.manual_seed(3)
    return nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def optimizers(first, second, fused=False):
    return (
        torch.optim.AdamW(first.parameters(), lr=1e-2, weight_decay=0.1, fused=fused),
        torch.optim.AdamW(second.parameters(), lr=3e-3, betas=(0.5, 0.9), fused=fused),
    )


def learn(nets, step, second=True):
    """Compute gradients of both networks, or of the first alone."""
    first, other = nets
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
    loss = (first(x) - x.flip(1)).square().mean() + (other(first(x).detach()).square().mean() if second else 0)
    loss.backward()


def weights(nets):
    return [parameter.detach().clone() for net in nets for parameter in net.parameters()]


def assert_equal(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one, other)


def by_hand(steps, fused=False, start=0, schedule=None):
    nets = networks()
    separate = optimizers(*nets, fused=fused)
    schedulers = [LambdaLR(optimizer, schedule) for optimizer in separate] if schedule else []
    for step in range(steps):
        for optimizer in separate:
            optimizer.zero_grad()
        learn(nets, step, second=step >= start)
        for part in (*separate, *schedulers):
            part.step()
    return nets, separate


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("start", [0, 4])
def test_combined_optimizers_step_as_each_does_alone(fused, start):
    """Each has its own rate under one schedule. Parameters without a gradient stay as they are and have no state."""

    def halving(step):
        return 0.5**step

    expected, separate = by_hand(7, fused, start, halving)
    nets = networks()
    both = CombinedOptimizer(optimizers(*nets, fused=fused))
    scheduler = LambdaLR(both, halving)
    before = weights(nets[1:])
    for step in range(7):
        both.zero_grad()
        learn(nets, step, second=step >= start)
        both.step()
        scheduler.step()
        if step == start - 1:
            assert_equal(weights(nets[1:]), before)
            assert not any(parameter in both.state for parameter in nets[1].parameters())
    assert_equal(weights(nets), weights(expected))
    rates = [group["lr"] for optimizer in separate for group in optimizer.param_groups]
    assert [group["lr"] for group in both.param_groups] == rates == [1e-2 / 128, 3e-3 / 128]


def saved_and_read(content):
    """Return the content after it was written and read as a checkpoint of plain types."""
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("fused", [False, True])
def test_training_continues_from_a_saved_state(fused):
    expected, _ = by_hand(9, fused, start=2)
    nets = networks()
    both = CombinedOptimizer(optimizers(*nets, fused=fused))
    for step in range(9):
        if step in (1, 5):  # before the second optimizer has a state, and after
            state, kept = saved_and_read(both.state_dict()), [saved_and_read(net.state_dict()) for net in nets]
            torch.manual_seed(step)
            nets = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
            for net, weight in zip(nets, kept, strict=True):
                net.load_state_dict(weight)
            both = CombinedOptimizer(optimizers(*nets, fused=fused))
            for group in both.param_groups:
                group["lr"] = 1.0  # replaced by that of the state
            both.load_state_dict(state)
            assert set(state) == {"state", "param_groups"}
            assert len(state["state"]) == (2 if step == 1 else 6)
        both.zero_grad()
        learn(nets, step, second=step >= 2)
        both.step()
    assert_equal(weights(nets), weights(expected))
    both.param_groups[1]["lr"] = 0.0  # the loaded groups are those of the optimizers that step
    both.param_groups[1]["weight_decay"] = 0.0
    before = weights(nets)
    both.step()
    assert_equal(weights(nets[1:]), before[2:])
    assert not torch.equal(nets[0].weight, before[0])


def test_optimizers_that_have_stepped_before_keep_their_state():
    expected, _ = by_hand(6)
    nets, separate = by_hand(3)
    both = CombinedOptimizer(separate)
    for step in range(3, 6):
        both.zero_grad()
        learn(nets, step)
        both.step()
    assert_equal(weights(nets), weights(expected))


def test_a_closure_is_called_once_with_gradients():
    nets = networks()
    both, calls = CombinedOptimizer(optimizers(*nets)), []

    def closure():
        both.zero_grad()
        learn(nets, len(calls))
        calls.append(torch.is_grad_enabled())
        return torch.tensor(7.0)

    with torch.no_grad():
        assert both.step(closure) == 7
    assert calls == [True]
    assert_equal(weights(nets), weights(by_hand(1)[0]))


def test_a_parameter_belongs_to_one_optimizer_and_groups_to_those_that_step():
    nets = networks()
    first, second = optimizers(*nets)
    with pytest.raises(ValueError, match="more than one parameter group"):
        CombinedOptimizer([first, torch.optim.SGD(nets[0].parameters(), lr=0.1)])
    with pytest.raises(NotImplementedError, match="add it to that one"):
        CombinedOptimizer([first, second]).add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_drives_both(fused):
    """Powers of two scale exactly, so the steps are the unscaled ones. A step with an infinite gradient is skipped."""
    nets = networks()
    both, scaler = CombinedOptimizer(optimizers(*nets, fused=fused)), torch.amp.GradScaler("cpu", init_scale=2.0**8)
    expected = networks()
    separate = optimizers(*expected, fused=fused)
    for step in range(6):
        both.zero_grad()
        learn(nets, step)
        for parameter in (*nets[0].parameters(), *nets[1].parameters()):
            parameter.grad *= scaler.get_scale()
        scaler.scale(torch.zeros(1))  # creates the scale
        if step == 3:
            nets[0].weight.grad[0, 0] = torch.inf
        scaler.unscale_(both)
        torch.nn.utils.clip_grad_norm_(nets[1].parameters(), 0.05)
        scaler.step(both)
        scaler.update()
        if step == 3:
            assert scaler.get_scale() == 2.0**7
            continue
        for optimizer in separate:
            optimizer.zero_grad()
        learn(expected, step)
        torch.nn.utils.clip_grad_norm_(expected[1].parameters(), 0.05)
        for optimizer in separate:
            optimizer.step()
    assert_equal(weights(nets), weights(expected))


class Toy(Model):
    """A model of two networks, of which the second starts at the third step, under automatic optimisation."""

    start = 3

    def __init__(self, fused=False):
        super().__init__(None, None)
        self.first, self.second = networks()
        self.fused = fused

    def configure_optimizers(self):
        both = CombinedOptimizer(optimizers(self.first, self.second, self.fused))
        return {"optimizer": both, "lr_scheduler": {"scheduler": cosine(both, 20, 2), "interval": "step"}}

    def training_step(self, batch, batch_idx):
        made = self.first(batch)
        loss = (made - batch.flip(1)).square().mean()
        return loss + self.second(made.detach()).square().mean() if self.global_step >= self.start else loss


class Counted(torch.utils.data.Dataset):
    """A dataset whose samples are functions of their index."""

    def __init__(self, first):
        self.first = first

    def __len__(self):
        return 400

    def __getitem__(self, index):
        return torch.randn(4, generator=torch.Generator().manual_seed(self.first + index))


def fitted(steps, tmp_path, resume=None, first=0, **settings):
    model = Toy(fused=settings.pop("fused", False))
    settings = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.3, "max_steps": steps, "max_epochs": 9, **settings}
    trainer = lightning.Trainer(**QUIET, devices=1, default_root_dir=tmp_path, **settings)
    loader = torch.utils.data.DataLoader(Counted(first), batch_size=4)
    trainer.fit(model, loader, ckpt_path=resume)
    return trainer, model


@pytest.mark.parametrize("settings", [{"fused": False}, {"fused": True}, {"precision": "bf16-mixed", "fused": True}])
@pytest.mark.parametrize("at", [2, 7])
def test_lightning_resumes_both_bit_by_bit(tmp_path, settings, at):
    """The run is resumed before the second network starts and after; with accumulation, clipping and a schedule."""
    _, whole = fitted(10, tmp_path, **settings)
    trainer, _ = fitted(at, tmp_path, **settings)
    path = tmp_path / "half.ckpt"
    trainer.save_checkpoint(path)
    (state,) = torch.load(path, weights_only=True)["optimizer_states"]
    assert len(state["state"]) == (2 if at < Toy.start else 6)
    # Lightning counts the batches of the resumed epoch from 0; the data continue where they were.
    resumed, model = fitted(10, tmp_path, resume=path, first=8 * at, **settings)
    assert resumed.global_step == 10
    assert_equal(weights([model]), weights([whole]))


def test_steps_by_lightning_equal_steps_by_hand(tmp_path):
    _, model = fitted(6, tmp_path, accumulate_grad_batches=1, gradient_clip_val=None)
    nets = networks()
    separate = optimizers(*nets)
    schedulers = [cosine(optimizer, 20, 2) for optimizer in separate]
    data = Counted(0)
    for step in range(6):
        batch = torch.stack([data[4 * step + i] for i in range(4)])
        for optimizer in separate:
            optimizer.zero_grad()
        made = nets[0](batch)
        loss = (made - batch.flip(1)).square().mean()
        (loss + nets[1](made.detach()).square().mean() if step >= Toy.start else loss).backward()
        for part in (*separate, *schedulers):
            part.step()
    assert_equal(weights([model.first, model.second]), weights(nets))
