"""Rows of strangers' files, read where that can hurt nobody, and kept as Parquet of our own."""
