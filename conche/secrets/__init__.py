"""Secrets: SOPS and age, without the ways to lose or leak them."""
