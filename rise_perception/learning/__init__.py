"""Learning: matching, losses, data augmentation and the trainer; knows the network only by its protocol."""
