"""Training whose weights, gradients, averages and optimizer states are sharded over devices (FSDP)."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from diffsweep.backbones import Backbone
from diffsweep.callbacks.checkpoints import KEY, SHARDED
from diffsweep.callbacks.shards import with_shards, without_sharded, write_shard
from diffsweep.errors import UserError
from diffsweep.layers.sharding import ShardedNetwork, sharded_as
from diffsweep.models import Model


class ShardedStrategy(DDPStrategy):
    """A strategy of Lightning by which each of n processes (ranks) keeps 1 / n of the weights and of what follows them.

    So it is with the gradients, the averages of the weights and the states of the optimizer. The networks of a model
    (``Model.networks``) gather their weights block by block where they compute: see
    :class:`~diffsweep.layers.sharding.ShardedNetwork`. It works on GPUs, and by gloo on CPUs, unlike Lightning's own.

    A step has the numbers of ``trainer=ddp``, within rounding; batches that are accumulated scatter their gradients
    each, so that these are never whole. For a validation, and for samples and metrics after training, all weights are
    gathered on each device: then the devices may have different numbers of batches, and the first one alone may draw
    pictures.

    Each process writes its part of a checkpoint, see :mod:`~diffsweep.callbacks.shards`. Reading merges them, so that
    the run goes on with any number of processes, sharded or not.
    """

    shards_weights = True

    def __init__(self) -> None:
        super().__init__()
        self.networks: list[ShardedNetwork] = []

    def model_to_device(self) -> None:
        """Shard the networks, block by block, and move what is left of the model to the device.

        Raises:
            UserError: weights train that are in no network.
        """
        from torch.distributed.device_mesh import init_device_mesh

        model = self._trained()
        inside = tuple(f"{name}." for name in model.networks)
        for name, weight in model.named_parameters():
            if weight.requires_grad and not name.startswith(inside):
                raise UserError(f"{name} trains, and is in no network whose weights are sharded; use trainer=ddp")
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for name in model.networks:
            network = model.get_submodule(name)
            blocks = network.in_turn() if isinstance(network, Backbone) else []
            self.networks.append(ShardedNetwork(model, name, blocks, mesh))
        super().model_to_device()

    def configure_ddp(self) -> None:
        """Leave the model as it is: the sharded networks exchange their gradients themselves."""

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Have all weights on each device, in plain networks, for the body of a ``with`` statement."""
        self.on_validation_start()
        try:
            yield
        finally:
            self.on_validation_end()

    def on_validation_start(self) -> None:
        for network in self.networks:
            network.gather()

    def on_validation_end(self) -> None:
        for network in self.networks:
            network.release()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the state of the model with sharded weights, also if they are gathered now: they then are no more."""
        self.on_validation_end()
        return super().lightning_module_state_dict()

    def _trained(self) -> Model:
        assert isinstance(self.lightning_module, Model)
        return self.lightning_module

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write this process's part of a checkpoint, and on the first process the checkpoint when all have done so."""
        path = Path(filepath)
        content, tensors = without_sharded(checkpoint)
        save = self.broadcast(secrets.token_hex(4))
        own = write_shard(path, tensors, checkpoint["global_step"], save, self.global_rank, self.world_size)
        every: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(every, own)
        super().save_checkpoint({**with_shards(content, tensors, every), KEY: SHARDED}, path, storage_options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give each optimizer its states of a checkpoint, of which this process keeps those of its own rows."""
        states = [_sharded(*pair) for pair in zip(self.optimizers, checkpoint["optimizer_states"], strict=True)]
        super().load_optimizer_state_dict({"optimizer_states": states})

    def teardown(self) -> None:
        """End as Lightning does, but leave the model on its device, where its sharded weights are gathered again."""
        assert self.cluster_environment is not None
        assert self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()


def _sharded(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an optimizer with the tensors of each weight sharded as the weight is.

    Args:
        optimizer: of the sharded weights.
        state: its state dict with whole tensors, which numbers the weights in the order of the groups.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    of_number = dict(zip(numbers, weights, strict=True))

    def like(value: Any, weight: Tensor) -> Any:
        fits = isinstance(value, Tensor) and value.shape == weight.shape
        return sharded_as(value, weight) if fits else value

    each = {
        number: {name: like(value, of_number[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": each}
