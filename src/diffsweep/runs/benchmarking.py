"""What diffsweep costs over bare PyTorch: ratios, measured interleaved in one process."""

import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from torch import Tensor, nn
from tqdm import tqdm

from diffsweep.datasets import ImageData
from diffsweep.diffusion import Hybrid, Noise, Objective, Simple, variational_bound
from diffsweep.diffusion import Stream as Draw
from diffsweep.diffusion.bound import chain_times
from diffsweep.diffusion.process import expand_to
from diffsweep.files import write_text
from diffsweep.guidance import ClassifierFreeGuidance
from diffsweep.models import DiffusionModel
from diffsweep.runs import peers, report
from diffsweep.runs.build import build, build_data, build_diffusion, device_of
from diffsweep.runs.compose import compose
from diffsweep.runs.conf import options
from diffsweep.runs.errors import UserError
from diffsweep.runs.latents import keep_latents
from diffsweep.runs.stages import resolve_stages
from diffsweep.runs.tracking import loggers
from diffsweep.runs.training import make_trainer, train
from diffsweep.samplers import Sampler

MEMORY = "memory"  # how labels of results in bytes begin; all others are in seconds
Results = dict[str, dict[str, float]]


def benchmark(cfg: DictConfig) -> float:
    """The command ``benchmark.py``: prints the ratios and writes ``benchmark.json``; returns the first ratio."""
    if cfg.repeats < 3 or cfg.train_steps < 1:
        raise UserError(
            f"a median needs repeats of at least 3 and train_steps of at least 1, not {cfg.repeats} and {cfg.train_steps}"
        )
    if not cfg.parts:
        raise UserError(f"parts is empty; a benchmark has {', '.join(PARTS)}")
    if unknown := sorted(set(cfg.parts) - set(PARTS)):
        raise UserError(f"parts has {', '.join(unknown)}; a benchmark has {', '.join(PARTS)}")
    resolve_stages(cfg, train)
    folder = Path(cfg.paths.run_dir)
    results = {label: result for part in cfg.parts for label, result in PARTS[part](cfg).items()}
    settings = {"threads": torch.get_num_threads(), "torch": torch.__version__, "batch_size": cfg.dataset.batch_size}
    settings |= {"device": "cuda" if torch.cuda.is_available() else "cpu", "repeats": cfg.repeats}
    write_text(folder / "benchmark.json", json.dumps({"settings": settings, "results": results}, indent=2) + "\n")
    rows = [
        (
            label,
            f"{result['ratio']:.3f}",
            f"{result['ours'] / 2**20:.1f} MiB against {result['bare'] / 2**20:.1f} MiB"
            if label.startswith(MEMORY)
            else f"90 % of repeats {result['low']:.3f} to {result['high']:.3f}; "
            f"{1000 * result['ours']:.2f} ms against {1000 * result['bare']:.2f} ms",
        )
        for label, result in results.items()
    ]
    print(f"\n{report.table(rows)}\n\n  {report.shown(folder / 'benchmark.json')}")
    return next(iter(results.values()))["ratio"]


def compare(ours: list[float], bare: list[float]) -> dict[str, float]:
    """Medians of paired times, the ratio of each pair in the median, and where 90 % of the ratios lie."""
    ratios = sorted(a / b for a, b in zip(ours, bare, strict=True))
    cut = round(0.05 * (len(ratios) - 1))
    return {
        "ratio": statistics.median(ratios),
        "low": ratios[cut],
        "high": ratios[-1 - cut],
        "ours": statistics.median(ours),
        "bare": statistics.median(bare),
    }


def synchronize() -> None:
    """Wait for the device, where the clock would not."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Interleave(Callback):
    """Times blocks of Lightning's steps and, between them, blocks of another loop.

    A block runs from the start of one step to the start of another: it has the data, the hooks and the logging in it.

    Args:
        bare: runs a number of steps of the other loop.
        steps: of a block.
        bar: advanced by a block each.
    """

    def __init__(self, bare: Callable[[int], None], steps: int, bar: Any) -> None:
        self.bare, self.steps, self.bar = bare, steps, bar
        self.ours_seconds: list[float] = []
        self.bare_seconds: list[float] = []
        self._begin: float | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.steps:
            return
        synchronize()
        now = time.perf_counter()
        if self._begin is not None:
            self.ours_seconds.append((now - self._begin) / self.steps)
            begin = time.perf_counter()
            self.bare(self.steps)
            synchronize()
            self.bare_seconds.append((time.perf_counter() - begin) / self.steps)
            self.bar.update()
        self._begin = time.perf_counter()


def bare_loop(model: DiffusionModel, data: ImageData, clip: float | None) -> Callable[[int], None]:
    """The loop that a paper's script has: the same network, batch, loss, clipping and optimizer, and nothing else; on random tensors
    where the model works in latents, and told the same of every batch where the network is told something."""
    network = copy.deepcopy(model.denoiser.backbone)
    optimizer = model.make_optimizer(network.parameters())
    samples = data.split("train")
    x = samples["x"] if model.autoencoder.bounded else torch.randn(len(samples), *model.autoencoder.shape)
    _, cond = model.request(torch.arange(data.batch_size), samples)
    steps = model.denoiser.schedule.num_steps or 1000
    grid = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    alphas, sigmas = (value.float() for value in model.denoiser.schedule(grid))

    def run(count: int) -> None:
        device = next(network.parameters()).device
        for _ in range(count):
            x_0 = x[torch.randint(len(x), (data.batch_size,))].to(device)
            k = torch.randint(steps, (data.batch_size,))
            alpha, sigma = (expand_to(table[k].to(device), x_0) for table in (alphas, sigmas))
            eps = torch.randn_like(x_0)
            output = network(alpha * x_0 + sigma * eps, (1000 * k / steps).to(x_0), cond)
            loss = (output - eps).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()

    return run


def training_ratio(cfg: DictConfig) -> dict[str, float]:
    """Our training loop, with its weight average, counted noise and logging, against the bare loop."""
    data, model = build_data(cfg), build_diffusion(cfg)
    keep_latents(cfg, model, data)
    settings = cfg.copy()
    warm_up = 2
    settings.trainer.max_steps = (cfg.repeats + warm_up) * cfg.train_steps + 1
    settings.trainer.limit_val_batches = 0
    callbacks = [callback for name, callback in build(cfg, "callbacks").items() if name != "progress"]
    with tqdm(total=cfg.repeats + warm_up, desc="training loops", unit="block", dynamic_ncols=True) as bar:
        trainer = make_trainer(settings, callbacks, loggers(cfg))
        bare = bare_loop(model.to(trainer.strategy.root_device), data, cfg.trainer.gradient_clip_val)
        interleave = Interleave(bare, cfg.train_steps, bar)
        trainer.callbacks.insert(0, interleave)  # type: ignore[attr-defined]
        trainer.fit(model, data)
    return compare(interleave.ours_seconds[warm_up:], interleave.bare_seconds[warm_up:])


class NetworkCalls:
    """The times of a module's calls, taken where they happen: on the CPU's clock, or on the GPU's own."""

    def __init__(self, module: nn.Module) -> None:
        self.spans: list[tuple[Any, Any]] = []
        self._begin: Any = None
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def _before(self, *_: Any) -> None:
        self._begin = stamp()

    def _after(self, *_: Any) -> None:
        self.spans.append((self._begin, stamp()))

    def seconds(self) -> float:
        """The time of all calls since this was asked last."""
        total = sum(seconds_between(*span) for span in self.spans)
        self.spans = []
        return total


def stamp() -> Any:
    """A point in time of the device's work."""
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(begin: Any, end: Any) -> float:
    """Seconds between two stamps; on a GPU after :func:`synchronize`."""
    return end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1000


def hybrid_ratio(cfg: DictConfig) -> dict[str, float]:
    """A training step with the hybrid loss against one with the simple loss, on the same network with two heads."""
    settings = cfg.copy()
    settings.prediction.variance = "learned_range"
    model, data = build_diffusion(settings), build_data(cfg)
    model.to(device_of(cfg))
    optimizer = model.make_optimizer(model.denoiser.parameters())
    samples = data.split("train")["x"]
    rows = torch.arange(data.batch_size) % len(samples)
    noise, x_0 = Noise(0, rows.to(model.device)), samples[rows].to(model.device)
    t, eps = model.denoiser.schedule.time_at(noise.uniform(stream=Draw.TIME)), noise.like(x_0, Draw.EPS)
    hybrid, simple = Hybrid(levels=model.autoencoder.levels), Simple()

    def step(objective: Objective) -> float:
        synchronize()
        begin = time.perf_counter()
        optimizer.zero_grad()
        objective(model.denoiser, x_0, None, t, eps).mean().backward()
        optimizer.step()
        synchronize()
        return time.perf_counter() - begin

    for objective in (hybrid, simple) * 3:
        step(objective)
    pairs = [
        (step(hybrid), step(simple))
        for _ in tqdm(range(cfg.repeats * cfg.train_steps), desc="hybrid loss", dynamic_ncols=True)
    ]
    return compare([a for a, _ in pairs], [b for _, b in pairs])


@torch.no_grad()
def bound_ratio(cfg: DictConfig) -> dict[str, float]:
    """The variational bound on a chain of 50 steps against the network calls within it, per step."""
    model, data = build_diffusion(cfg).eval(), build_data(cfg)
    model.to(device_of(cfg))
    samples = data.split("train")["x"]
    x_0 = samples[torch.arange(cfg.sample_batch) % len(samples)].to(model.device)
    noise = Noise(0, torch.arange(cfg.sample_batch, device=model.device))
    times = chain_times(model.denoiser.schedule, 50)
    return within(
        lambda: variational_bound(model.denoiser, x_0, times, noise, model.autoencoder.levels),
        model.denoiser.backbone,
        len(times) - 1,
        cfg.repeats,
        "bound",
    )


@torch.no_grad()
def sampling_ratio(cfg: DictConfig, model: DiffusionModel, sampler: Sampler, name: str) -> dict[str, float]:
    """A walk against the calls of the network within it, per step."""
    noise = Noise(0, torch.arange(cfg.sample_batch, device=model.device))
    x = noise.normal(*model.autoencoder.shape, stream=Draw.PRIOR)
    return within(
        lambda: sampler(model.denoiser, x, noise=noise), model.denoiser.backbone, sampler.steps, cfg.repeats, name
    )


def sampling(cfg: DictConfig) -> Results:
    """The chosen sampler."""
    model = build_diffusion(cfg).eval().to(device_of(cfg))
    name = cfg.choices.sampler
    return {f"{name} step, against its network calls": sampling_ratio(cfg, model, model.sampler, name)}


def samplers(cfg: DictConfig) -> Results:
    """Every sampler of conf/ but the adaptive one, whose steps are not of one cost, in as many steps as the chosen one."""
    model = build_diffusion(cfg).eval().to(device_of(cfg))
    results = {}
    for option in options("sampler"):
        sampler = build(compose("benchmark", [f"sampler={option}", f"sampler.steps={cfg.sampler.steps}"]), "sampler")
        if sampler.tolerance is None:
            results[f"{option} step, against its network calls"] = sampling_ratio(cfg, model, sampler, option)
    return results


@torch.no_grad()
def guidance(cfg: DictConfig) -> Results:
    """A walk under classifier-free guidance against an unguided one of as many rows of the network: of twice as many samples."""
    model = build_diffusion(compose("benchmark", ["model=classifier_free", f"sampler.steps={cfg.sampler.steps}"]))
    model.eval().to(device_of(cfg))
    count = cfg.sample_batch

    def seconds(samples: int, scale: float) -> float:
        indices = torch.arange(samples)
        _, cond = model.request(indices, None)
        x, noise = model.start(indices, seed=0)
        denoiser = ClassifierFreeGuidance(model.denoiser, scale=scale)
        synchronize()
        begin = time.perf_counter()
        model.sampler(denoiser, x, cond, noise)
        synchronize()
        return (time.perf_counter() - begin) / model.sampler.steps

    seconds(count, 2.0), seconds(2 * count, 1.0)
    pairs = [
        (seconds(count, 2.0), seconds(2 * count, 1.0))
        for _ in tqdm(range(cfg.repeats), desc="guidance", dynamic_ncols=True)
    ]
    name = "guided step, against an unguided one with as many network rows"
    return {name: compare([guided for guided, _ in pairs], [plain for _, plain in pairs])}


def backbones(cfg: DictConfig) -> Results:
    """Training steps of our backbones against those of diffusers' networks of the same sizes."""
    results = {}
    for pair in peers.pairs():
        sizes = f"{peers.parameters(pair.ours):,} against {peers.parameters(pair.theirs):,} parameters"
        times = peers.step_times(pair, cfg.dataset.batch_size, cfg.repeats * cfg.train_steps, device_of(cfg))
        results[f"{pair.name} step, against diffusers' ({sizes})"] = compare(*times)
    return results


def video(cfg: DictConfig) -> Results:
    """A training step of a DiT3D with factorised attention against one with full attention over space and time, of the same weights, on
    clips of the space's size (of 16 frames, where data are images): its time and its memory.

    Memory is the peak of a step, beyond what is there before it, on a GPU; on a CPU, where the allocator keeps no count, what a forward
    pass keeps for the backward pass, which is most of that peak.
    """
    frames = cfg.space.num_frames or 16
    sizes = [
        f"space.channels={cfg.space.channels}",
        f"space.image_size={cfg.space.image_size}",
        f"space.num_frames={frames}",
    ]
    networks = []
    for kind in ("factorised", "full"):
        node = compose("benchmark", ["backbone=dit3d", f"backbone.attention={kind}", *sizes])
        networks.append(build(node, "backbone").to(device_of(cfg)))
    networks[1].load_state_dict(networks[0].state_dict())
    shape = (cfg.dataset.batch_size, cfg.space.channels, frames, cfg.space.image_size, cfg.space.image_size)
    x, c_noise = torch.randn(shape, device=device_of(cfg)), torch.full(shape[:1], 500.0, device=device_of(cfg))

    def step(network: nn.Module) -> float:
        synchronize()
        begin = time.perf_counter()
        network(x, c_noise).square().mean().backward()
        network.zero_grad()
        synchronize()
        return time.perf_counter() - begin

    for network in networks * 2:
        step(network)
    pairs = [(step(networks[0]), step(networks[1])) for _ in tqdm(range(cfg.repeats), desc="video", dynamic_ncols=True)]
    least, most = (memory_of(network, x, c_noise) for network in networks)
    what, ratio = f"factorised attention, against full ({' x '.join(str(size) for size in shape)})", least / most
    memory = {"ratio": ratio, "low": ratio, "high": ratio, "ours": least, "bare": most}
    return {f"step with {what}": compare([a for a, _ in pairs], [b for _, b in pairs]), f"{MEMORY} of {what}": memory}


def memory_of(network: nn.Module, *inputs: Tensor) -> int:
    """Bytes that a training step takes: see :func:`video`."""
    if next(network.parameters()).is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        network(*inputs).square().mean().backward()
        network.zero_grad()
        return torch.cuda.max_memory_allocated() - before
    own, kept = {weight.untyped_storage().data_ptr() for weight in network.parameters()}, {}

    def keep(part: Tensor) -> Tensor:
        storage = part.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return part

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda part: part):
        output = network(*inputs)  # holds what is kept, so that no place is counted twice
    del output
    return sum(kept.values())


PARTS: dict[str, Callable[[DictConfig], Results]] = {
    "training": lambda cfg: {"training step, against a bare loop": training_ratio(cfg)},
    "sampling": sampling,
    "samplers": samplers,
    "hybrid": lambda cfg: {"step with the hybrid loss, against the simple loss": hybrid_ratio(cfg)},
    "guidance": guidance,
    "backbones": backbones,
    "video": video,
    "bound": lambda cfg: {"term of the variational bound, against its network call": bound_ratio(cfg)},
}


def within(run: Callable[[], Any], network: nn.Module, steps: int, repeats: int, name: str) -> dict[str, float]:
    """A walk of network calls against these calls, per step.

    Both are taken of the same walk: on a shared machine two loops timed after each other differ by more than what is added
    to the calls.
    """
    calls = NetworkCalls(network)
    ours, bare = [], []
    for repeat in tqdm(range(repeats + 1), desc=name, dynamic_ncols=True):
        synchronize()
        begin = stamp()
        run()
        end = stamp()
        synchronize()
        inside = calls.seconds()
        if repeat > 0:  # the first one warms up
            ours.append(seconds_between(begin, end) / steps)
            bare.append(inside / steps)
    return compare(ours, bare)
