"""The tasks below secrets.recipients."""
