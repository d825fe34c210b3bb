"""act, which runs workflows on this machine, and the secrets that it or a server gives them."""
