"""Inputs of predictions that come from feature views, by the ids of entities."""
