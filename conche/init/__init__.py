"""`conche init`: write a stack.yaml for a repository that Compose can run, just by looking at it."""
