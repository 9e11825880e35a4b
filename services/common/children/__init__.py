"""Processes that open what strangers wrote, and may do nothing but compute."""
