"""Recipes by name: checks, and the model of a `RecipeConfig`."""

import difflib
from collections.abc import Sequence

from smile_pipe.model.class_anchors import MiT, MpaVLM
from smile_pipe.model.config import RECIPES, RecipeConfig
from smile_pipe.model.multichannel import MultiChannelModel
from smile_pipe.model.objectives import AffectVLM, ContrastiveModel, FacetVLM, MultiviewVLM, SmileVLM, Supervised

RecipeModel = ContrastiveModel | MultiChannelModel
"""What a recipe builds: a system, or one for each of several channels."""

_SYSTEMS: dict[str, type[ContrastiveModel]] = {
    system.__name__: system for system in (SmileVLM, AffectVLM, MultiviewVLM, FacetVLM, Supervised, MpaVLM, MiT)
}


def check_recipe(name: str, drop_losses: Sequence[str] = ()) -> None:
    """Check the name of a recipe and of the loss terms to drop from it.

    Raises:
        ValueError: There is no such recipe, it has no such terms, or no term remains.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of: {', '.join(RECIPES)}"
        raise ValueError(f"unknown recipe {name!r}; {hint}")
    terms = RECIPES[name].weights
    if unknown := sorted(set(drop_losses) - terms.keys()):
        raise ValueError(f"{name} has no loss {unknown[0]!r}; its losses: {', '.join(terms)}")
    if terms.keys() <= set(drop_losses):
        raise ValueError(f"{name} without {', '.join(drop_losses)} has no loss left; keep at least one")
    if drop_losses and terms.keys() <= {*drop_losses, *RECIPES[name].image_free}:
        raise ValueError(
            f"{name} without {', '.join(drop_losses)} has no loss left that reads images; keep another one"
        )


def build_model(config: RecipeConfig) -> RecipeModel:
    """Build the model of a recipe, with pretrained weights if its config names them.

    Raises:
        ValueError: The recipe, a loss, the architecture or the pretrained weights are unknown.
    """
    check_recipe(config.name, config.without)
    system = _SYSTEMS[RECIPES[config.name].system]
    if config.num_channels == 1:
        return system(config)
    return MultiChannelModel([system(config) for _ in range(config.num_channels)])
