"""Stand-ins that ship with the toolkit, each tested by the same contract suite as the real thing."""
