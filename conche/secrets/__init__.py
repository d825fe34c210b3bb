"""The secrets commands: SOPS and age, safe against losing or leaking secrets."""
