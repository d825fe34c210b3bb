"""invoke ci.setup: from a checkout and a forge that is up to a repository whose first push is deployed."""
