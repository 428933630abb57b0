"""Scores of a model: perplexity, a task's own metric, lm-evaluation-harness."""
