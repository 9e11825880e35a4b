"""Telling others of a fetch's end."""
