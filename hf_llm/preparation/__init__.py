"""Raw text made ready: cleaned, filtered, deduplicated, in shards."""
