"""Loops, schedules, checkpoints, health, and the critic's side of a step."""
