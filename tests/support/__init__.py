"""What several tests need: problems, oracles of others, ranks to start, and ways to ask."""
