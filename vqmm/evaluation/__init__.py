"""One model judged: metrics over held-out data, labels, realism, coherence, memorisation."""
