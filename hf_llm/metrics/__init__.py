"""Metrics of generated text: `evaluate.Metric` classes that need no network, with bootstrap confidence intervals."""
