"""Rules on adaptations: a model takes all weights of the trained one that it starts from."""

from functools import partial

import torch
from omegaconf import DictConfig

from diffsweep.configuration.build import sized
from diffsweep.configuration.rules.base import BuiltParts, rule
from diffsweep.configuration.sizes import instantiated
from diffsweep.errors import UserError
from diffsweep.models import Model

PATH = "adaptation.base"


@rule
def the_adaptation_fits_its_base(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a model cannot be adapted from its base: another network, or unknown names."""
    stage = parts.stages.get(PATH)
    if parts.adaptation is None or stage is None or stage.cfg is None:
        return None
    try:
        instantiated(cfg, "adaptation", base=partial(_shapes_of, stage.cfg, adapted=True))(_shapes_of(cfg))
    except UserError as error:
        return str(error)
    return None


def _shapes_of(cfg: DictConfig, adapted: bool = False) -> Model:
    """Return the model of a configuration without memory for weights; if ``adapted``, as its adaptation changes it."""
    cfg = sized(cfg)
    with torch.device("meta"):
        model: Model = instantiated(cfg, "model")
        if adapted and (adaptation := instantiated(cfg, "adaptation")) is not None:
            adaptation(model, start=False)
    return model
