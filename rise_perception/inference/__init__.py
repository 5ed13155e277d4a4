"""From a frame to instances: served models, pre- and post-processing, pairing, persistent ids."""
