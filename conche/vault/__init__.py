"""The secrets of a stack: the encrypted file, its keys, and what is written from it."""
