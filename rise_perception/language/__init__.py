"""What people call things: words, colour names, a grammar, and what a sentence means in a scene."""
