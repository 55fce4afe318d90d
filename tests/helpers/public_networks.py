"""Networks of public codes by the key structure of their weights alone: random state dicts, and forward passes.

A forward pass is written from the papers and reads the state dict by its public keys; it shares nothing with the
networks of diffsweep. ``Weights`` makes random values for keys and shapes.
"""

import math

import torch
from torch.nn import functional


class Weights(dict):
    """A state dict of random values, whose scale keeps activations of size one."""

    def __init__(self, seed=0):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def add(self, key, *shape):
        """Add values of the shape, of variance one over the number of inputs."""
        fan = math.prod(shape[1:]) if len(shape) > 1 else 1
        self[key] = torch.randn(shape, generator=self.generator) / fan**0.5

    def layer(self, key, *shape, bias=True):
        """Add a linear layer or a convolution with the weight's shape."""
        self.add(f"{key}.weight", *shape)
        if bias:
            self[f"{key}.bias"] = 0.1 * torch.randn(shape[0], generator=self.generator)

    def norm(self, key, width):
        """Add scale and shift of a norm."""
        self[f"{key}.weight"] = 1 + 0.2 * torch.randn(width, generator=self.generator)
        self[f"{key}.bias"] = 0.2 * torch.randn(width, generator=self.generator)

    def conv(self, key, x, padding=1, stride=1):
        """Return a convolution of x by the weights under a key."""
        return functional.conv2d(x, self[f"{key}.weight"], self[f"{key}.bias"], stride, padding)

    def linear(self, key, x):
        """Return a linear map of x by the weights under a key, with a bias."""
        return functional.linear(x, self[f"{key}.weight"], self.get(f"{key}.bias"))

    def group_norm(self, key, x, eps=1e-5, groups=32):
        """Return the group norm of x by the weights under a key."""
        return functional.group_norm(x, groups, self[f"{key}.weight"], self[f"{key}.bias"], eps)

    def layer_norm(self, key, x, eps=1e-5):
        """Return the layer norm of x by the weights under a key."""
        return functional.layer_norm(x, x.shape[-1:], self[f"{key}.weight"], self[f"{key}.bias"], eps)


def sinusoids(t, width, last=0):
    """Return cosines, then sines of t times 10000^(-i / (width / 2 - last))."""
    half = width // 2
    angles = t[:, None] * torch.tensor([10000 ** (-i / (half - last)) for i in range(half)])
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def softmax_attention(q, k, v):
    """Return attention for q, k, v of one head, each (B, D, L)."""
    weights = torch.softmax(torch.einsum("bdl,bdm->blm", q, k) / q.shape[1] ** 0.5, dim=2)
    return torch.einsum("blm,bdm->bdl", weights, v)


class OpenAIUNet:
    """The U-Net of improved-diffusion, guided-diffusion, consistency_models and latent-diffusion, by its public keys.

    Args: the flags of the public scripts; ``new_order`` is ``use_new_attention_order``, and with ``context`` attention
    layers are transformers that attend to tokens of this width.
    """

    def __init__(self, image_size=8, channels=128, mult=(1, 2), blocks=1, attends=(2,), heads=2, out_channels=6,
                 in_channels=3, scale_shift=True, updown=True, new_order=False, classes=None, context=None, depth=1,
                 encoder=False):  # fmt: skip
        self.channels, self.heads, self.scale_shift, self.new_order = channels, heads, scale_shift, new_order
        self.context, self.depth, self.classes = context, depth, classes
        self.weights, self.down, self.middle, self.up = Weights(), [], [], []
        w, emb = self.weights, 4 * channels
        w.layer("time_embed.0", emb, channels)
        w.layer("time_embed.2", emb, emb)
        if classes is not None:
            w.add("label_emb.weight", classes, emb)
        w.layer("input_blocks.0.0", channels, in_channels, 3, 3)
        self.down.append([("conv", "input_blocks.0.0")])
        widths, width, factor = [channels], channels, 1
        for level, m in enumerate(mult):
            for _ in range(blocks):
                place = f"input_blocks.{len(self.down)}"
                parts = [self.block(f"{place}.0", width, m * channels)]
                width = m * channels
                if factor in attends:
                    parts.append(self.attention(f"{place}.1", width))
                self.down.append(parts)
                widths.append(width)
            if level < len(mult) - 1:
                place = f"input_blocks.{len(self.down)}.0"
                if updown:
                    self.down.append([self.block(place, width, width, "down")])
                else:
                    w.layer(f"{place}.op", width, width, 3, 3)
                    self.down.append([("halve", f"{place}.op")])
                widths.append(width)
                factor *= 2
        self.middle = [
            self.block("middle_block.0", width, width),
            self.attention("middle_block.1", width),
            self.block("middle_block.2", width, width),
        ]
        w.norm("out.0", channels if not encoder else width)
        if encoder:
            side = image_size // factor
            w.add("out.2.positional_embedding", width, side**2 + 1)
            w.layer("out.2.qkv_proj", 3 * width, width, 1)
            w.layer("out.2.c_proj", out_channels, width, 1)
            return
        for level, m in reversed(list(enumerate(mult))):
            for i in range(blocks + 1):
                place = f"output_blocks.{len(self.up)}"
                parts = [self.block(f"{place}.0", width + widths.pop(), m * channels)]
                width = m * channels
                if factor in attends:
                    parts.append(self.attention(f"{place}.1", width))
                if level and i == blocks:
                    key = f"{place}.{len(parts)}"
                    if updown:
                        parts.append(self.block(key, width, width, "up"))
                    else:
                        w.layer(f"{key}.conv", width, width, 3, 3)
                        parts.append(("double", f"{key}.conv"))
                    factor //= 2
                self.up.append(parts)
        w.layer("out.2", out_channels, channels, 3, 3)

    def block(self, key, width_in, width, resample=None):
        w = self.weights
        w.norm(f"{key}.in_layers.0", width_in)
        w.layer(f"{key}.in_layers.2", width, width_in, 3, 3)
        w.layer(f"{key}.emb_layers.1", (2 if self.scale_shift else 1) * width, 4 * self.channels)
        w.norm(f"{key}.out_layers.0", width)
        w.layer(f"{key}.out_layers.3", width, width, 3, 3)
        if width_in != width:
            w.layer(f"{key}.skip_connection", width, width_in, 1, 1)
        return "block", key, resample

    def attention(self, key, width):
        w = self.weights
        w.norm(f"{key}.norm", width)
        if self.context is None:
            w.layer(f"{key}.qkv", 3 * width, width, 1)
            w.layer(f"{key}.proj_out", width, width, 1)
            return "attention", key
        w.layer(f"{key}.proj_in", width, width, 1, 1)
        w.layer(f"{key}.proj_out", width, width, 1, 1)
        for i in range(self.depth):
            place = f"{key}.transformer_blocks.{i}"
            for name, source in (("attn1", width), ("attn2", self.context)):
                w.layer(f"{place}.{name}.to_q", width, width, bias=False)
                w.layer(f"{place}.{name}.to_k", width, source, bias=False)
                w.layer(f"{place}.{name}.to_v", width, source, bias=False)
                w.layer(f"{place}.{name}.to_out.0", width, width)
            w.layer(f"{place}.ff.net.0.proj", 8 * width, width)
            w.layer(f"{place}.ff.net.2", width, 4 * width)
            for name in ("norm1", "norm2", "norm3"):
                w.norm(f"{place}.{name}", width)
        return "transformer", key

    def __call__(self, x, t, labels=None, tokens=None):
        """Return the output for images x at timesteps t."""
        emb = self.embed(t, labels)
        maps = []
        for parts in self.down:
            x = self.run(parts, x, emb, tokens)
            maps.append(x)
        x = self.run(self.middle, x, emb, tokens)
        for parts in self.up:
            x = self.run(parts, torch.cat([x, maps.pop()], dim=1), emb, tokens)
        return self.weights.conv("out.2", functional.silu(self.weights.group_norm("out.0", x)))

    def logits(self, x, t):
        """Return the logits of the classifier for images x at timesteps t."""
        w, emb = self.weights, self.embed(t, None)
        for parts in [*self.down, self.middle]:
            x = self.run(parts, x, emb, None)
        x = functional.silu(w.group_norm("out.0", x)).flatten(2)
        x = torch.cat([x.mean(dim=2, keepdim=True), x], dim=2) + w["out.2.positional_embedding"]
        q, k, v = functional.conv1d(x, w["out.2.qkv_proj.weight"], w["out.2.qkv_proj.bias"]).chunk(3, dim=1)
        heads = [[part.chunk(self.heads, dim=1)[i] for part in (q, k, v)] for i in range(self.heads)]
        out = torch.cat([softmax_attention(*head) for head in heads], dim=1)
        return functional.conv1d(out, w["out.2.c_proj.weight"], w["out.2.c_proj.bias"])[:, :, 0]

    def embed(self, t, labels):
        w = self.weights
        emb = w.linear("time_embed.2", functional.silu(w.linear("time_embed.0", sinusoids(t, self.channels))))
        return emb if labels is None else emb + w["label_emb.weight"][labels]

    def run(self, parts, x, emb, tokens):
        for kind, key, *more in parts:
            if kind == "conv":
                x = self.weights.conv(key, x)
            elif kind == "halve":
                x = self.weights.conv(key, x, stride=2)
            elif kind == "double":
                x = self.weights.conv(key, x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
            elif kind == "block":
                x = self.run_block(key, x, emb, *more)
            elif kind == "attention":
                x = self.run_attention(key, x)
            else:
                x = self.run_transformer(key, x, tokens)
        return x

    def run_block(self, key, x, emb, resample):
        w = self.weights
        h = functional.silu(w.group_norm(f"{key}.in_layers.0", x))
        if resample == "down":
            h, x = functional.avg_pool2d(h, 2), functional.avg_pool2d(x, 2)
        if resample == "up":
            h, x = (each.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) for each in (h, x))
        h = w.conv(f"{key}.in_layers.2", h)
        e = w.linear(f"{key}.emb_layers.1", functional.silu(emb))[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = w.group_norm(f"{key}.out_layers.0", h) * (1 + scale) + shift
        else:
            h = w.group_norm(f"{key}.out_layers.0", h + e)
        h = w.conv(f"{key}.out_layers.3", functional.silu(h))
        return h + (w.conv(f"{key}.skip_connection", x, padding=0) if f"{key}.skip_connection.weight" in w else x)

    def run_attention(self, key, x):
        w, n = self.weights, self.heads
        qkv = functional.conv1d(w.group_norm(f"{key}.norm", x).flatten(2), w[f"{key}.qkv.weight"], w[f"{key}.qkv.bias"])
        d = qkv.shape[1] // (3 * n)
        out = []
        for i in range(n):
            if self.new_order:  # all queries, all keys, all values
                q, k, v = (qkv[:, part * n * d + i * d : part * n * d + (i + 1) * d] for part in range(3))
            else:  # head by head
                q, k, v = (qkv[:, (3 * i + part) * d : (3 * i + part + 1) * d] for part in range(3))
            out.append(softmax_attention(q, k, v))
        h = functional.conv1d(torch.cat(out, dim=1), w[f"{key}.proj_out.weight"], w[f"{key}.proj_out.bias"])
        return x + h.reshape(x.shape)

    def run_transformer(self, key, x, tokens):
        w = self.weights
        h = w.conv(f"{key}.proj_in", w.group_norm(f"{key}.norm", x, eps=1e-6), padding=0).flatten(2).mT
        for i in range(self.depth):
            place = f"{key}.transformer_blocks.{i}"
            normed = w.layer_norm(f"{place}.norm1", h)
            h = h + self.cross(f"{place}.attn1", normed, normed)
            h = h + self.cross(f"{place}.attn2", w.layer_norm(f"{place}.norm2", h), tokens)
            value, gate = w.linear(f"{place}.ff.net.0.proj", w.layer_norm(f"{place}.norm3", h)).chunk(2, dim=-1)
            h = h + w.linear(f"{place}.ff.net.2", value * functional.gelu(gate))
        return x + w.conv(f"{key}.proj_out", h.mT.reshape(x.shape), padding=0)

    def cross(self, key, x, context):
        w = self.weights
        q, k, v = w.linear(f"{key}.to_q", x), w.linear(f"{key}.to_k", context), w.linear(f"{key}.to_v", context)
        heads = zip(*(part.mT.chunk(self.heads, dim=1) for part in (q, k, v)), strict=True)
        return w.linear(f"{key}.to_out.0", torch.cat([softmax_attention(*head) for head in heads], dim=1).mT)
