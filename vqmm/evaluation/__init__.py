"""One model evaluated: metrics over held-out data, labels, realism, coherence, memorisation."""
