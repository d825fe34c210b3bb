"""Stand-ins that ship with the toolkit, each held to the same contract suite as what it stands for."""
