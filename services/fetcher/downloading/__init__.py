"""Bytes on their way from a source into the blob store, in parts that survive their worker."""
