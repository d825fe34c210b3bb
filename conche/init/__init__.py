"""`conche init`: from a repository that Compose can run to a stack.yaml, by looking alone."""
