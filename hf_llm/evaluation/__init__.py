"""Scores of a model: perplexity, the metric of a task, lm-evaluation-harness."""
