"""What ci.setup sets up between a running forge and the first push, part by part."""
