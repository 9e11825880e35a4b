"""Recipes: ways of training, each run in a process of its own."""
