"""Kernels for the CPU: `ops` is the public interface, compiled C++ where it could be built and torch where not."""
