"""What `penstock <command>` runs. Each module has `add_arguments(parser)` and `run(args) -> exit code`."""
