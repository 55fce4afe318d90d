"""Steps, intervals and precision."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule

MODES = ("online", "offline", "disabled")


@rule
def validation_is_by_steps(cfg: DictConfig, parts: BuiltParts) -> str | None:
    if (epochs := cfg.trainer.check_val_every_n_epoch) is not None:
        return (
            f"trainer.check_val_every_n_epoch={epochs} must stay null: the training stream has no epochs; use "
            "trainer.val_check_interval=STEPS"
        )
    return None


@rule
def intervals_are_positive(cfg: DictConfig, parts: BuiltParts) -> str | None:
    for key in ("val_check_interval", "log_every_n_steps", "accumulate_grad_batches"):
        if not (isinstance(cfg.trainer[key], int) and cfg.trainer[key] >= 1):
            return f"trainer.{key} is a whole number of steps, at least 1, not {cfg.trainer[key]}"
    return None


@rule
def a_run_ends(cfg: DictConfig, parts: BuiltParts) -> str | None:
    if cfg.trainer.max_steps < 1:
        return f"trainer.max_steps must be at least 1, not {cfg.trainer.max_steps}: the training stream has no end of its own"
    return None


@rule
def a_logger_has_a_mode(cfg: DictConfig, parts: BuiltParts) -> str | None:
    return None if cfg.logger.mode in MODES else f"logger.mode is one of {', '.join(MODES)}, not {cfg.logger.mode}"


@rule
def scaled_gradients_are_not_clipped_when_fused(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """A fused optimizer unscales float16's gradients itself, after they would have to be clipped."""
    half, fused = str(cfg.trainer.precision) in ("16", "16-mixed"), cfg.optimizer.get("fused")
    if half and fused and cfg.trainer.gradient_clip_val:
        return (
            f"trainer.precision={cfg.trainer.precision}: its gradients cannot be clipped with a fused optimizer; use "
            "optimizer.fused=false, or trainer.precision=bf16-mixed"
        )
    return None
