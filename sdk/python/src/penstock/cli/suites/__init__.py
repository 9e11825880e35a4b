"""Suite files: a set of models as it should be, compared with the registry and brought about."""
