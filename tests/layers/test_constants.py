"""Tables that depend on sizes alone: made once for each size, and constants of compiled networks."""

import warnings

import torch

from diffsweep.layers import SinusoidalEmbedding
from diffsweep.layers.constants import made_once


def test_a_table_is_made_once_for_each_size():
    sizes = []

    @made_once(2)
    def table(size, device):
        sizes.append(size)
        return torch.arange(size, device=device)

    for size in (3, 4, 3, 5, 3):  # the third one takes the place of the second
        assert table(size, torch.device("cpu")).tolist() == list(range(size))
    table(4, torch.device("cpu"))
    assert sizes == [3, 4, 5, 4]


def test_compiled_code_does_not_make_it_again():
    """So nothing is copied to a GPU in a call, and torch has no cache to warn of; with embeddings of two sizes."""
    graphs, times = [], torch.tensor([3.0, 500.0])
    embeddings = [SinusoidalEmbedding(size) for size in (8, 12, 8)]

    def embedded(c_noise):
        return torch.cat([embedding(c_noise) for embedding in embeddings], 1)

    torch._dynamo.reset()
    kept = torch.compile(embedded, backend=lambda graph, _: graphs.append(graph) or graph.forward, fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(kept(times), embedded(times))
        assert torch.equal(torch.compile(embedded, backend="aot_eager", fullgraph=True)(times), embedded(times))
    (graph,) = graphs
    called = [str(node.target) for node in graph.graph.nodes if node.op.startswith("call")]
    assert not [name for name in called if "arange" in name or "exp" in name or name == "to"]
    torch._dynamo.reset()
