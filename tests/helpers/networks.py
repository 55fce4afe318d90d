"""Assertions that the tests of several networks share."""

import torch


def assert_every_parameter_learns(network, inputs, steps):
    """Assert that every parameter has a gradient after ``steps`` steps; a layer of zeros blocks them at first."""
    optimizer, target = torch.optim.Adam(network.parameters(), lr=1e-2), torch.randn_like(network(*inputs))
    for _ in range(steps):
        optimizer.zero_grad()
        (network(*inputs) - target).square().mean().backward()
        optimizer.step()
    assert not [name for name, parameter in network.named_parameters() if not parameter.grad.any()]


def assert_computing_blocks_again_changes_no_gradient(network, inputs):
    gradients = []
    for network.checkpointing in (False, True):
        network.zero_grad()
        network(*inputs).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=0, atol=0)


def assert_it_compiles_as_one_graph(network, inputs):
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), network(*inputs))
