"""What the operator says of a service: pure."""
