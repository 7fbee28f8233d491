"""Benchmarks of time and memory against transformers' Longformer: workloads, measurement and reports."""
