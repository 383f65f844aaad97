"""``rdd-deploy suggest``: untrained candidates, exported and timed here, and which of them are worth training."""
