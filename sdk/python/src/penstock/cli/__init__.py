"""The `penstock` command: a module per noun over the SDK's Client."""
