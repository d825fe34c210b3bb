"""invoke ci.setup: given a checkout and a running forge, make a repository whose first push is deployed."""
