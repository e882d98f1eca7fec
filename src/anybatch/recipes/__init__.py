"""Functions that return a frozen recipe, and the code that turns a recipe into a run."""

from anybatch.recipes.catalogue import RECIPES, find_recipe
from anybatch.recipes.change import change, with_batch_size
from anybatch.recipes.execute import evaluate_run, evaluate_step, recipe_of, train_recipe
from anybatch.recipes.preview import preview_recipe
from anybatch.recipes.recipe import CausalRecipe, ImageRecipe, PretrainingRecipe, QuestionsRecipe, Recipe, from_json

__all__ = [
    "RECIPES",
    "CausalRecipe",
    "ImageRecipe",
    "PretrainingRecipe",
    "QuestionsRecipe",
    "Recipe",
    "change",
    "evaluate_run",
    "evaluate_step",
    "find_recipe",
    "from_json",
    "preview_recipe",
    "recipe_of",
    "train_recipe",
    "with_batch_size",
]
