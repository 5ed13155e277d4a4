"""Learning from episodes while the robot works: data mix, update, validation gate, versions of models."""
