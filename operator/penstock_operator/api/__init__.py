"""The API that people write YAML for."""
