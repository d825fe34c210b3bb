"""Who can read the encrypted file; .sops.yaml and the file change together.

The file is changed first and .sops.yaml after it. A kill between the two is found by the next command, which refuses
until the same `recipients.add` or `.remove` is said again, and finishes then.
"""
