"""Plans: what a training will cost, before it starts."""
