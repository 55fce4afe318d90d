r"""Networks whose weights are sharded over processes (ranks), each of which has 1 / n of the rows of every weight.

A block gathers its weights to compute, and frees them after it; in the backward pass it gathers them again, and the
mean of its gradients over the processes is scattered, so that each has those of its own rows (ZeRO stage 3,
arXiv:1910.02054, by torch's FSDP2, arXiv:2304.11277).
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ShardedNetwork:
    """A network of a module whose weights are sharded over the processes, in place, and its twin with whole weights.

    All processes must make it, with equal weights. From then on all of them must call the network equally often, since
    each call gathers weights. Where they cannot, as in evaluation, :meth:`gather` puts a plain copy of the network with
    all of its weights in its place, with which a process can do anything alone, until :meth:`release`.

    Args:
        module: the module that has the network.
        name: the path of the network in it.
        blocks: parts of the network that run one after the other, each called as a whole: one at a time is in memory.
            All other weights of the network are gathered together for its time.
        mesh: the processes, a ``DeviceMesh`` of one dimension of torch.
    """

    def __init__(self, module: nn.Module, name: str, blocks: Sequence[nn.Module], mesh: Any) -> None:
        from torch.distributed.fsdp import fully_shard

        self.module, self.name, self.network = module, name, module.get_submodule(name)
        self._plain = _without_values(self.network)
        for block in blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        fully_shard(self.network, mesh=mesh, reshard_after_forward=False)
        self._gathered = False

    @torch.no_grad()
    def gather(self) -> None:
        """Put a plain copy with all weights in the place of the network; all processes must call it.

        The copy takes its memory beside the rows of this process.
        """
        if self._gathered:
            return
        for part in self.network.modules():
            if hasattr(part, "reshard"):
                part.reshard()  # type: ignore[operator]
        own = [*self.network.parameters(), *self.network.buffers()]
        plain = self._plain.to_empty(device=own[0].device)
        for tensor, sharded in zip([*plain.parameters(), *plain.buffers()], own, strict=True):
            tensor.copy_(whole(sharded))
        for copied, part in zip(plain.modules(), self.network.modules(), strict=True):
            copied.training = part.training
        self.module.set_submodule(self.name, plain)
        self._gathered = True

    def release(self) -> None:
        """Put the sharded network back in its place, and free the copy."""
        if self._gathered:
            self.module.set_submodule(self.name, self.network)
            self._plain.to("meta")
            self._gathered = False


def _without_values(network: nn.Module) -> nn.Module:
    """Return a copy of a network on the meta device: its tensors have shapes, and no memory."""
    shapes = {id(weight): _shape_of(weight) for weight in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, shapes)


def _shape_of(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def is_sharded(weight: Tensor) -> bool:
    """Return whether a tensor is sharded (a ``DTensor`` of torch), of which a process has a part of the rows alone."""
    return hasattr(weight, "device_mesh")


@torch.no_grad()
def own_part(weight: Tensor) -> Tensor:
    """Return the rows of a sharded tensor that this process has, in the same memory; any other tensor as it is."""
    return weight.to_local() if is_sharded(weight) else weight  # type: ignore[attr-defined,no-any-return]


def own_parts(weights: Iterable[Tensor]) -> list[Tensor]:
    """Return :func:`own_part` of each tensor."""
    return [own_part(weight) for weight in weights]


@torch.no_grad()
def sharded_as(tensor: Tensor, weight: Tensor) -> Tensor:
    """Return a tensor sharded as a weight of the same shape is, in new memory on its device; nothing is sent.

    Args:
        tensor: equal on all processes.
        weight: the weight; if it is not sharded, the result is not either.
    """
    if not is_sharded(weight):
        return tensor.to(weight.device, copy=True)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(weight, DTensor)
    on_device = tensor.to(weight.device)
    return distribute_tensor(on_device, weight.device_mesh, weight.placements, src_data_rank=None).clone()


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor, or a norm of sharded ones, whole; any other as it is. All processes must call it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined,no-any-return]
