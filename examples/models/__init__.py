"""The models of the ready-made suites in examples/suites, built here: the same bytes each time."""
