"""Images: what this stack builds, and the bases it builds on."""
