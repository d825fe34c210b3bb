"""The secrets of a stack: the encrypted file, its keys, and the files rendered from it."""
