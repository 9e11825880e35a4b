"""The fetcher: brings models from elsewhere into the registry."""
