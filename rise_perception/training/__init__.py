"""Training: matching, losses, pseudo-labels and the trainer; knows the network only by its protocol."""
