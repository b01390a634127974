"""Errors, files, machine, libraries, signals, processes: helpers that know nothing of the rest."""
