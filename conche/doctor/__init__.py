"""invoke doctor: check that everything the toolkit depends on is there."""
