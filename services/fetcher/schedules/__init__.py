"""Fetches that begin by themselves: once at a time, or again and again by cron."""
