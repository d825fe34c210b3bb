"""The images commands: images that this stack builds, and the base images it builds on."""
