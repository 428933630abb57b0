"""Prepare raw text: clean, filter and deduplicate it, and write it in shards."""
