"""What a release is, and where an environment remembers its releases."""
