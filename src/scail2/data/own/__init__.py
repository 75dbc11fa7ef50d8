"""Motion pairs and single videos of one's own: from files to shards that `scail2 cache` reads."""
