"""Where models are fetched from: a source is one file here."""
