"""Rules on preferences: what is compared, by which score, and that the reference is the model's own beginning."""

from omegaconf import DictConfig, OmegaConf

from diffsweep.configuration.rules.adaptation import PATH
from diffsweep.configuration.rules.base import BuiltParts, rule
from diffsweep.datasets.pairs import held_out
from diffsweep.models import Attribute, PreferenceModel

PROCESS = ("schedule", "prediction", "autoencoder")  # groups by which x_t and the loss at it are what they are


@rule
def reference_has_the_process_of_the_model(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a model and its reference would be compared at other noisy samples."""
    stage = parts.stages.get(PATH)
    if not issubclass(parts.model, PreferenceModel) or stage is None or stage.cfg is None:
        return None
    for group in PROCESS:
        theirs, ours = (OmegaConf.to_container(one[group], resolve=True) for one in (stage.cfg, cfg))
        if theirs != ours:
            return (
                f"the reference has {group}={stage.cfg.choices[group]} and the model {group}={cfg.choices[group]}, or "
                f"other settings of it, so their losses are not comparable; leave {group} as the run of from= has it"
            )
    return None


@rule
def winners_are_compared_with_losers(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a loss of pairs gets single images."""
    if parts.preference is None or parts.comparisons is None:
        return None
    if parts.preference.requires_pairs and not parts.comparisons.pairs:
        return (
            f"preference={cfg.choices.preference} compares a winner with a loser, and "
            "comparisons.loser_column=null has single images; use preference=kto, reward_weighted or supervised"
        )
    return None


@rule
def comparisons_fill_a_batch(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if fewer compared samples than a batch are left to train on."""
    if parts.comparisons is None:
        return None
    count, size = parts.comparisons.count, cfg.dataset.batch_size
    if count - held_out(count) < size:
        return (
            f"{count} rows of compared samples fill no batch of dataset.batch_size={size} beside the "
            f"{held_out(count)} that are held out; use dataset.batch_size={max(count - held_out(count), 1)} or less"
        )
    return None


@rule
def compared_samples_have_no_images_as_condition(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a condition is made of the images of the data, which compared samples replace."""
    if issubclass(parts.model, PreferenceModel) and parts.conditioning.requires_pixels:
        return (
            f"conditioning={cfg.choices.conditioning} reads images of the data, and compared samples take their place; "
            "use conditioning=class, text or none"
        )
    return None


@rule
def the_scorer_reads_the_data(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a score is a number that the dataset does not read from images."""
    scorer, known = parts.scorer, parts.dataset.numbers
    if not isinstance(scorer, Attribute) or scorer.name in known:
        return None
    reads = f"reads {', '.join(known)} from images" if known else "reads no numbers from images"
    return f"scorer.name={scorer.name}, and dataset={cfg.choices.dataset} {reads}; use " + (
        f"scorer.name={known[0]}" if known else "scorer=class_probability, or scorer=none with comparisons=parquet"
    )


@rule
def preferences_are_compared_without_dropout(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the model's losses are drawn with dropout in the network: the reference's are not."""
    if issubclass(parts.model, PreferenceModel) and cfg.backbone.get("dropout", 0):
        return (
            f"backbone.dropout={cfg.backbone.dropout} changes the losses of the model and not those of its reference; "
            "use backbone.dropout=0"
        )
    return None


@rule
def compared_samples_are_of_one_size_and_kept_in_order(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if compared samples should take the place of images of several sizes, or of a stream."""
    if not issubclass(parts.model, PreferenceModel):
        return None
    if cfg.dataset.get("buckets") is not None:
        return "compared samples have one size, and dataset.buckets gives images several; use dataset.buckets=null"
    if cfg.dataset.get("streaming"):
        return "compared samples are not read as a stream; use dataset.streaming=false"
    return None
