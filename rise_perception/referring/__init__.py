"""From a sentence to the item that it means: one mask, or none, several, or not understood."""
