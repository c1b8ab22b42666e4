"""A recipe is a named system: a config that builds a model with its losses.

Goes in: `RecipeConfig`. Comes out: a module that maps view images and prompts to embeddings, and embeddings to a dict
of named loss terms whose weighted sum under `total` is what is minimised.
"""

import difflib
from collections.abc import Sequence

from model import systems
from model.config import RECIPES, RecipeConfig
from model.systems import Recipe

__all__ = ["RECIPES", "build_model", "check_recipe"]


def check_recipe(name: str, without: Sequence[str] = ()) -> None:
    """Raise ValueError where there is no recipe `name`, or where it has no such terms, or no others."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of: {', '.join(RECIPES)}"
        raise ValueError(f"unknown recipe {name!r}; {hint}")
    terms = RECIPES[name].weights
    if unknown := sorted(set(without) - terms.keys()):
        raise ValueError(f"{name} has no loss {unknown[0]!r} to leave out; its losses: {', '.join(terms)}")
    if terms.keys() <= set(without):
        raise ValueError(f"{name} without {', '.join(without)} has no loss left")


def build_model(config: RecipeConfig) -> Recipe:
    """The model of a recipe, with the weights that its config asks for.

    Raises:
        ValueError: unknown recipe, loss, architecture or pretrained weights.
    """
    check_recipe(config.name, config.without)
    system: type[Recipe] = getattr(systems, RECIPES[config.name].system)
    return system(config)
