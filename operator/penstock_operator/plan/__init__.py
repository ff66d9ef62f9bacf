"""What is to be done next about a service: pure."""
