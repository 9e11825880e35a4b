"""The registry's service for those who run it: who changed what, and what takes up room for nothing."""
