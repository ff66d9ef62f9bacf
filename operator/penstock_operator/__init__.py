"""Penstock's Kubernetes operator: turns `InferenceService` objects into running services."""
