"""Scores of generated text as `evaluate.Metric` classes that need no network, each with its bootstrap interval."""
