"""The `rise` command."""
