"""Plan, candidates, builder process, verification, race, runtime, store."""
