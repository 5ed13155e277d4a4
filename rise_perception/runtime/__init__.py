"""Serving: a loaded model, its pre- and post-processing, persistent ids and geometry."""
