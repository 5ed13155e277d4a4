"""Update: from labelled episodes to a candidate, through the gate, to a version that may serve."""
