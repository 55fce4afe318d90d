"""Self-attention over the positions of a feature map."""

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.layers.norms import group_norm, zero_init


class SelfAttention2d(nn.Module):
    """Residual multi-head self-attention over H x W, through SDPA (arXiv:1706.03762); the identity at initialisation.

    Args:
        channels: C, divisible by ``heads``.
        heads: number of heads.
    """

    def __init__(self, channels: int, heads: int = 1) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be split into {heads} attention heads")
        self.heads = heads
        self.norm = group_norm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.to_out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        qkv = self.to_qkv(self.norm(x))  # (B, 3 C, H, W)
        q, k, v = rearrange(qkv, "b (three n d) h w -> three b n (h w) d", three=3, n=self.heads)
        out = functional.scaled_dot_product_attention(q, k, v)  # (B, N, H W, D)
        return x + self.to_out(rearrange(out, "b n (h w) d -> b (n d) h w", h=height))
