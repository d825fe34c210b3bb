"""invoke doctor: is everything there that the toolkit stands on."""
