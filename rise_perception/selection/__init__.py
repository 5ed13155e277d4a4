"""Which pseudo-labels are believed: one interface for thresholds, regressors and a learned policy."""
